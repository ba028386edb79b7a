{{ config(materialized='ephemeral') }}
select customer from {{ ref('orders') }} where amount > 6
