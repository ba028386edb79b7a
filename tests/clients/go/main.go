// Checks of pgx against the running server: each mode of executing, batches, CopyFrom, scanning of types, cursors,
// notifications, a pool, and database/sql on top.
//
// Prints a line "ok   NAME: what was compared" or "FAIL NAME: why" for each; ends with 1 if one failed.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"
)

var address = "postgres://millstream@127.0.0.1:" + os.Getenv("PGPORT") + "/millstream"

type check struct {
	name string
	run  func(context.Context, *pgx.Conn) string
}

// must ends a check with an error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

func same(what string, found, expected any) {
	if !reflect.DeepEqual(found, expected) {
		panic(fmt.Errorf("%s: %#v instead of %#v", what, found, expected))
	}
}

func modes(ctx context.Context, conn *pgx.Conn) string {
	all := []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
		pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	}
	at := time.Date(2024, 2, 29, 12, 30, 0, 123456000, time.UTC)
	for _, mode := range all {
		for range 3 {
			var n int64
			var text string
			var back time.Time
			row := conn.QueryRow(ctx, "SELECT $1::bigint + 1, $2::text || '!', $3::timestamptz", mode, int64(41), "a'b", at)
			must(row.Scan(&n, &text, &back))
			same(mode.String(), []any{n, text, back.UTC()}, []any{int64(42), "a'b!", at})
		}
	}
	return fmt.Sprintf("%d modes, three times each", len(all))
}

func scanned(ctx context.Context, conn *pgx.Conn) string {
	_, err := conn.Exec(ctx, `CREATE TABLE go_types (id INT PRIMARY KEY, b BOOL, i2 INT2, i4 INT4, i8 INT8, f4 FLOAT4, f8 FLOAT8,
		n NUMERIC(20,4), t TEXT, v VARCHAR(10), by BYTEA, d DATE, ti TIME, ts TIMESTAMP, tz TIMESTAMPTZ, iv INTERVAL, u UUID,
		j JSON, jb JSONB, xs INT4[], ss TEXT[])`)
	must(err)
	type values struct {
		ID int32
		B  *bool
		I2 *int16
		I4 *int32
		I8 *int64
		F4 *float32
		F8 *float64
		N  pgtype.Numeric
		T  *string
		V  *string
		By []byte
		D  pgtype.Date
		Ti pgtype.Time
		Ts pgtype.Timestamp
		Tz *time.Time
		Iv pgtype.Interval
		U  pgtype.UUID
		J  map[string]any
		Jb map[string]any
		Xs []int32
		Ss []*string
	}
	yes, i2, i4, i8, f4, f8, t, v, s := true, int16(-1), int32(1<<30), int64(1<<62), float32(1.5), 0.1, "té'xt", "short", "a,b"
	tz := time.Date(2024, 2, 29, 12, 30, 0, 123456000, time.UTC)
	var n pgtype.Numeric
	must(n.Scan("1234567890.1250"))
	in := values{
		1, &yes, &i2, &i4, &i8, &f4, &f8, n, &t, &v, []byte{0, 255},
		pgtype.Date{Time: time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC), Valid: true},
		pgtype.Time{Microseconds: 86399999999, Valid: true},
		pgtype.Timestamp{Time: tz, Valid: true}, &tz, pgtype.Interval{Months: 14, Days: 3, Microseconds: 5, Valid: true},
		pgtype.UUID{Bytes: [16]byte{1, 2, 15: 255}, Valid: true}, map[string]any{"a": 1.0}, map[string]any{"b": []any{nil, "x"}},
		[]int32{1, 2, 3}, []*string{&s, nil},
	}
	insert := `INSERT INTO go_types VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21)`
	_, err = conn.Exec(ctx, insert, in.ID, in.B, in.I2, in.I4, in.I8, in.F4, in.F8, in.N, in.T, in.V, in.By, in.D, in.Ti, in.Ts,
		in.Tz, in.Iv, in.U, in.J, in.Jb, in.Xs, in.Ss)
	must(err)
	_, err = conn.Exec(ctx, "INSERT INTO go_types (id) VALUES (2)")
	must(err)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
		rows, err := conn.Query(ctx, "SELECT * FROM go_types ORDER BY id", mode)
		must(err)
		all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[values])
		must(err)
		utc := all[0].Tz.UTC()
		all[0].Tz = &utc
		number, err := all[0].N.Value()
		must(err)
		expected, _ := in.N.Value()
		same("numeric", number, expected)
		all[0].N = in.N
		same("row", all[0], in)
		same("row of NULLs", all[1].T == nil && all[1].Xs == nil && !all[1].D.Valid && !all[1].N.Valid, true)
	}
	return "20 types and NULLs, binary and text"
}

func batch(ctx context.Context, conn *pgx.Conn) string {
	_, err := conn.Exec(ctx, "CREATE TABLE go_batch (id INT PRIMARY KEY, t TEXT)")
	must(err)
	b := &pgx.Batch{}
	for n := range 20 {
		b.Queue("INSERT INTO go_batch VALUES ($1, $2)", n, fmt.Sprint("t", n))
	}
	var count int
	b.Queue("SELECT count(*) FROM go_batch").QueryRow(func(row pgx.Row) error { return row.Scan(&count) })
	must(conn.SendBatch(ctx, b).Close())
	same("count", count, 20)
	b = &pgx.Batch{}
	b.Queue("INSERT INTO go_batch VALUES (100, 'x')")
	b.Queue("INSERT INTO go_batch VALUES (1, 'x')")
	err = conn.SendBatch(ctx, b).Close()
	var failure *pgconn.PgError
	if !errors.As(err, &failure) {
		panic(fmt.Errorf("no error, but %v", err))
	}
	same("error", failure.Code, "23505")
	must(conn.QueryRow(ctx, "SELECT count(*) FROM go_batch").Scan(&count))
	same("count after the failed batch", count, 20)
	return "20 inserts and a count at once; a batch that fails leaves nothing"
}

func copyFrom(ctx context.Context, conn *pgx.Conn) string {
	_, err := conn.Exec(ctx, "CREATE TABLE go_copy (id INT8 PRIMARY KEY, name TEXT, n NUMERIC(12,2), at TIMESTAMPTZ, xs TEXT[])")
	must(err)
	at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	rows := make([][]any, 0, 1000)
	for n := range 1000 {
		rows = append(rows, []any{int64(n), fmt.Sprint("name ", n), float64(n) / 4, at.Add(time.Duration(n) * time.Second), []string{"a", fmt.Sprint(n)}})
	}
	rows[7] = []any{int64(7), nil, nil, nil, nil}
	count, err := conn.CopyFrom(ctx, pgx.Identifier{"go_copy"}, []string{"id", "name", "n", "at", "xs"}, pgx.CopyFromRows(rows))
	must(err)
	same("copied", count, int64(1000))
	var found int64
	var sum float64
	must(conn.QueryRow(ctx, "SELECT count(name), sum(n)::float8 FROM go_copy").Scan(&found, &sum))
	same("found", []any{found, sum}, []any{int64(999), 499500.0/4 - 1.75})
	return "1000 rows in binary form"
}

func errorsOf(ctx context.Context, conn *pgx.Conn) string {
	_, err := conn.Exec(ctx, "CREATE TABLE go_errors (id INT PRIMARY KEY)")
	must(err)
	_, err = conn.Exec(ctx, "INSERT INTO go_errors VALUES (1), (1)")
	var failure *pgconn.PgError
	if !errors.As(err, &failure) {
		panic(fmt.Errorf("no error, but %v", err))
	}
	same("fields", []string{failure.Code, failure.Severity, failure.SchemaName, failure.TableName, failure.ConstraintName},
		[]string{"23505", "ERROR", "public", "go_errors", "go_errors_pkey"})
	short, end := context.WithTimeout(ctx, 200*time.Millisecond)
	defer end()
	other, err := pgx.Connect(ctx, address)
	must(err)
	defer other.Close(ctx)
	_, err = other.Exec(short, "SELECT pg_sleep(30)")
	if err == nil {
		panic(errors.New("no error of a statement that took too long"))
	}
	return "the fields of 23505; a deadline"
}

func transactions(ctx context.Context, conn *pgx.Conn) string {
	_, err := conn.Exec(ctx, "CREATE TABLE go_steps (id INT PRIMARY KEY)")
	must(err)
	must(pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO go_steps VALUES (1)")
		must(err)
		// A transaction in a transaction is a savepoint.
		failed := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
			_, err := inner.Exec(ctx, "INSERT INTO go_steps VALUES (1)")
			return err
		})
		if failed == nil {
			panic(errors.New("no error of a duplicate"))
		}
		_, err = tx.Exec(ctx, "INSERT INTO go_steps VALUES (2)")
		return err
	}))
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	must(err)
	var count int
	must(tx.QueryRow(ctx, "SELECT count(*) FROM go_steps").Scan(&count))
	same("count", count, 2)
	must(tx.Rollback(ctx))
	return "nested, and read only"
}

func heard(ctx context.Context, conn *pgx.Conn) string {
	_, err := conn.Exec(ctx, "LISTEN go_bell")
	must(err)
	other, err := pgx.Connect(ctx, address)
	must(err)
	defer other.Close(ctx)
	_, err = other.Exec(ctx, "SELECT pg_notify('go_bell', $1)", "rung")
	must(err)
	limited, end := context.WithTimeout(ctx, 10*time.Second)
	defer end()
	notice, err := conn.WaitForNotification(limited)
	must(err)
	same("notification", []string{notice.Channel, notice.Payload}, []string{"go_bell", "rung"})
	return "LISTEN and pg_notify"
}

func pool(ctx context.Context, _ *pgx.Conn) string {
	p, err := pgxpool.New(ctx, address+"?pool_max_conns=4")
	must(err)
	defer p.Close()
	answers := make(chan int)
	for n := range 40 {
		go func() {
			var back int
			if err := p.QueryRow(ctx, "SELECT $1::int", n).Scan(&back); err != nil {
				back = -1000
			}
			answers <- back
		}()
	}
	sum := 0
	for range 40 {
		sum += <-answers
	}
	same("sum", sum, 780)
	return "40 statements over 4 connections"
}

func loadedTypes(ctx context.Context, conn *pgx.Conn) string {
	found, err := conn.LoadType(ctx, "_numeric")
	must(err)
	same("OID", found.OID, uint32(1231))
	return "pgx looks a type up in the catalog"
}

func standard(ctx context.Context, _ *pgx.Conn) string {
	db, err := sql.Open("pgx", address)
	must(err)
	defer db.Close()
	statement, err := db.PrepareContext(ctx, "SELECT $1::int + 1, $2::text")
	must(err)
	for n := range 3 {
		var next int
		var text sql.NullString
		must(statement.QueryRowContext(ctx, n, nil).Scan(&next, &text))
		same("row", []any{next, text.Valid}, []any{n + 1, false})
	}
	rows, err := db.QueryContext(ctx, "SELECT 1::numeric(12,2) AS n, 'x'::varchar(5) AS v")
	must(err)
	defer rows.Close()
	types, err := rows.ColumnTypes()
	must(err)
	precision, scale, _ := types[0].DecimalSize()
	length, _ := types[1].Length()
	same("types", []any{types[0].DatabaseTypeName(), precision, scale, length}, []any{"NUMERIC", int64(12), int64(2), int64(5)})
	return "database/sql: prepared statements, types of columns"
}

func run(ctx context.Context, c check) (said string, err error) {
	defer func() {
		if caught := recover(); caught != nil {
			err = fmt.Errorf("%v", caught)
			if failure, is := caught.(*pgconn.PgError); is && failure.Hint != "" {
				err = fmt.Errorf("%w HINT: %s", err, failure.Hint)
			}
		}
	}()
	conn, err := pgx.Connect(ctx, address)
	must(err)
	defer conn.Close(ctx)
	return c.run(ctx, conn), nil
}

func main() {
	ctx, end := context.WithTimeout(context.Background(), 2*time.Minute)
	defer end()
	if info, is := debug.ReadBuildInfo(); is {
		for _, module := range info.Deps {
			if module.Path == "github.com/jackc/pgx/v5" {
				fmt.Println("     pgx", module.Version)
			}
		}
	}
	status := 0
	for _, c := range []check{
		{"modes", modes}, {"scanned", scanned}, {"batch", batch}, {"copy_from", copyFrom}, {"errors", errorsOf},
		{"transactions", transactions}, {"notifications", heard}, {"pool", pool}, {"loaded_types", loadedTypes}, {"database_sql", standard},
	} {
		said, err := run(ctx, c)
		if err != nil {
			status = 1
			fmt.Printf("FAIL %s: %v\n", c.name, err)
		} else {
			fmt.Printf("ok   %s: %s\n", c.name, said)
		}
	}
	os.Exit(status)
}
