select distinct customer from {{ ref('as_ephemeral') }}
