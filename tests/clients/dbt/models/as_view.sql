{{ config(materialized='view') }}
select customer, count(*) as orders, sum(amount) as total from {{ ref('as_table') }} group by customer
