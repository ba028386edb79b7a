// Checks of node-postgres: simple, parametrised and prepared statements, cursors, streams, a pool, types, notifications.
// Prints a line "ok   NAME: what was compared" or "FAIL NAME: why" for each; ends with 1 if one failed.
'use strict'

const assert = require('node:assert/strict')
const { Client, Pool, types } = require('pg')
const Cursor = require('pg-cursor')
const QueryStream = require('pg-query-stream')

const options = { host: '127.0.0.1', port: Number(process.env.PGPORT), user: 'millstream', database: 'millstream' }

async function connected(use, more = {}) {
  const client = new Client({ ...options, ...more })
  await client.connect()
  try {
    return await use(client)
  } finally {
    await client.end()
  }
}

const checks = {
  async simple() {
    return connected(async (client) => {
      const result = await client.query("SELECT 1 AS one, 'zwei' AS two, NULL AS three")
      assert.deepEqual(result.rows, [{ one: 1, two: 'zwei', three: null }])
      assert.deepEqual([result.command, result.rowCount], ['SELECT', 1])
      assert.deepEqual(result.fields.map((f) => f.dataTypeID), [23, 25, 25])
      const several = await client.query('SELECT 1 AS a; SELECT 2 AS a; SELECT 3 AS a')
      assert.deepEqual(several.map((r) => r.rows[0].a), [1, 2, 3])
      const array = await client.query({ text: 'SELECT 1, 2', rowMode: 'array' })
      assert.deepEqual(array.rows, [[1, 2]])
      const empty = await client.query('')
      assert.equal(empty.rows.length, 0)
      return 'names, types, several statements at once, rows as arrays'
    })
  },

  async parametrised() {
    return connected(async (client) => {
      await client.query('CREATE TABLE node_rows (id INT PRIMARY KEY, name TEXT, born DATE, tags TEXT[], extra JSONB)')
      const inserted = await client.query('INSERT INTO node_rows VALUES ($1, $2, $3, $4, $5), ($6, $7, NULL, NULL, NULL) RETURNING id',
        [1, "O'Hara ☃", '2024-01-02', ['a', 'b,c', null], { k: [1, 2] }, 2, null])
      assert.deepEqual([inserted.rowCount, inserted.rows], [2, [{ id: 1 }, { id: 2 }]])
      const { rows } = await client.query('SELECT * FROM node_rows WHERE id = ANY($1::int[]) ORDER BY id', [[1, 2, 3]])
      assert.equal(rows[0].name, "O'Hara ☃")
      assert.deepEqual(rows[0].tags, ['a', 'b,c', null])
      assert.deepEqual(rows[0].extra, { k: [1, 2] })
      assert.equal(rows[0].born.toISOString().slice(0, 4), new Date(2024, 0, 2).toISOString().slice(0, 4))
      assert.equal(rows[1].name, null)
      const any = await client.query('SELECT id FROM node_rows WHERE name = ANY($1)', [['x', "O'Hara ☃"]])
      assert.deepEqual(any.rows, [{ id: 1 }])
      const updated = await client.query('UPDATE node_rows SET name = $2 WHERE id = $1', [2, 'two'])
      assert.deepEqual([updated.command, updated.rowCount], ['UPDATE', 1])
      const limited = await client.query('SELECT id FROM node_rows ORDER BY id LIMIT $1 OFFSET $2', [1, 1])
      assert.deepEqual(limited.rows, [{ id: 2 }])
      return 'INSERT … RETURNING, arrays, jsonb, = ANY($1), LIMIT $1'
    })
  },

  async prepared() {
    return connected(async (client) => {
      for (let n = 0; n < 5; n++) {
        const { rows } = await client.query({ name: 'twice', text: 'SELECT $1::bigint * 2 AS n', values: [n] })
        assert.equal(rows[0].n, String(n * 2))
      }
      const { rows } = await client.query("SELECT name FROM pg_prepared_statements")
      assert.deepEqual(rows, [{ name: 'twice' }])
      await assert.rejects(client.query({ name: 'bad', text: 'SELECT $1::int', values: ['x'] }), { code: '22P02' })
      assert.equal((await client.query({ name: 'bad', text: 'SELECT $1::int AS n', values: ['3'] }).catch((e) => e)).code, undefined)
      return 'a named statement five times; an error does not break the name'
    })
  },

  async binary() {
    return connected(async (client) => {
      const { rows } = await client.query({
        text: "SELECT 7::int2 AS a, 8::int4 AS b, 9::int8 AS c, 1.5::float4 AS d, 2.5::float8 AS e, true AS f, 'x'::text AS g, 12.50::numeric AS h",
        binary: true,
        values: [],
      })
      assert.deepEqual([rows[0].a, rows[0].b, rows[0].d, rows[0].e, rows[0].f, rows[0].g], [7, 8, 1.5, 2.5, true, 'x'])
      assert.equal(Number(rows[0].c), 9)
      assert.equal(Number(rows[0].h), 12.5)
      return 'eight types in binary form'
    })
  },

  async parsed_types() {
    return connected(async (client) => {
      const { rows: [row] } = await client.query(`SELECT 9007199254740993::bigint AS big, 0.1::float8 AS f, 1.10::numeric(5,2) AS n,
        '2024-02-29 12:00:00+00'::timestamptz AS at, '\\x00ff'::bytea AS b, '{"a":1}'::json AS j, '1 day 02:00:00'::interval AS i,
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid AS u, ARRAY[1,2,NULL] AS xs, ARRAY['a b','c'] AS ts, false AS no`)
      assert.equal(row.big, '9007199254740993')
      assert.equal(row.f, 0.1)
      assert.equal(row.n, '1.10')
      assert.equal(row.at.toISOString(), '2024-02-29T12:00:00.000Z')
      assert.deepEqual([...row.b], [0, 255])
      assert.deepEqual(row.j, { a: 1 })
      assert.deepEqual([row.i.days, row.i.hours], [1, 2])
      assert.equal(row.u, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11')
      assert.deepEqual([row.xs, row.ts, row.no], [[1, 2, null], ['a b', 'c'], false])
      assert.equal(types.builtins.JSONB, 3802)
      return '11 types as JavaScript values'
    })
  },

  async cursor() {
    return connected(async (client) => {
      await client.query('BEGIN')
      const cursor = client.query(new Cursor('SELECT g FROM generate_series(1, $1::int) AS s(g) ORDER BY g', [250]))
      let sum = 0
      let reads = 0
      for (;;) {
        const rows = await cursor.read(100)
        if (rows.length === 0) break
        reads++
        sum += rows.reduce((s, r) => s + Number(r.g), 0)
      }
      assert.deepEqual([sum, reads], [31375, 3])
      await cursor.close()
      await client.query('COMMIT')
      const early = client.query(new Cursor('SELECT g FROM generate_series(1, 100000) AS s(g)'))
      assert.equal((await early.read(10)).length, 10)
      await early.close()
      assert.equal((await client.query('SELECT 5 AS n')).rows[0].n, 5)
      return '250 rows in three reads; a cursor that is closed early'
    })
  },

  async stream() {
    return connected(async (client) => {
      const stream = client.query(new QueryStream('SELECT g FROM generate_series(1, 5000) AS s(g)', [], { batchSize: 500 }))
      let count = 0
      for await (const row of stream) {
        assert.ok(row.g)
        count++
      }
      assert.equal(count, 5000)
      return '5000 rows in batches of 500'
    })
  },

  async transactions() {
    return connected(async (client) => {
      await client.query('CREATE TABLE node_steps (id INT PRIMARY KEY)')
      await client.query('BEGIN')
      await client.query('INSERT INTO node_steps VALUES ($1)', [1])
      await client.query('SAVEPOINT a')
      await assert.rejects(client.query('INSERT INTO node_steps VALUES ($1)', [1]), (e) => {
        assert.deepEqual([e.code, e.severity, e.table, e.constraint], ['23505', 'ERROR', 'node_steps', 'node_steps_pkey'])
        return true
      })
      await client.query('ROLLBACK TO SAVEPOINT a')
      await client.query('COMMIT')
      assert.equal((await client.query('SELECT count(*)::int AS n FROM node_steps')).rows[0].n, 1)
      return 'SAVEPOINT; 23505 with table and constraint'
    })
  },

  async pool() {
    const pool = new Pool({ ...options, max: 4 })
    const answers = await Promise.all([...Array(40).keys()].map((n) => pool.query('SELECT $1::int AS n', [n])))
    assert.deepEqual(answers.map((a) => a.rows[0].n), [...Array(40).keys()])
    assert.ok(pool.totalCount <= 4)
    await pool.end()
    return '40 statements over 4 connections'
  },

  async notifications() {
    return connected((listener) => connected(async (client) => {
      const heard = new Promise((resolve) => listener.on('notification', resolve))
      await listener.query('LISTEN node_bell')
      await client.query("SELECT pg_notify('node_bell', $1)", ['rung'])
      const { channel, payload } = await heard
      assert.deepEqual([channel, payload], ['node_bell', 'rung'])
      return 'LISTEN and pg_notify'
    }))
  },

  async settings() {
    return connected(async (client) => {
      assert.deepEqual((await client.query('SHOW application_name')).rows, [{ application_name: 'node' }])
      assert.deepEqual((await client.query('SHOW statement_timeout')).rows[0], { statement_timeout: '200ms' })
      await assert.rejects(client.query('SELECT pg_sleep(10)'), { code: '57014' })
      return 'application_name, statement_timeout as start-up options'
    }, { application_name: 'node', statement_timeout: 200 })
  },
}

async function main() {
  let failed = 0
  console.log(`     node ${process.version}, pg ${require('pg/package.json').version}`)
  for (const [name, check] of Object.entries(checks)) {
    try {
      console.log(`ok   ${name}: ${await check()}`)
    } catch (error) {
      failed++
      console.log(`FAIL ${name}: ${error.stack}${error.hint ? ` HINT: ${error.hint}` : ''}`)
    }
  }
  process.exit(failed ? 1 : 0)
}

main()
