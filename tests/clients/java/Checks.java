// Checks of pgjdbc against the running server: prepared statements, batches, fetch size, COPY, types, what its DatabaseMetaData
// asks the catalog, errors, savepoints.
//
// Prints a line "ok   NAME: what was compared" or "FAIL NAME: why" for each; ends with 1 if one failed.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.Date;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.TreeSet;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.util.PSQLException;

public final class Checks {
  interface Check {
    String run(Connection connection) throws Exception;
  }

  static final String URL = "jdbc:postgresql://127.0.0.1:" + System.getenv("PGPORT") + "/millstream";

  static Connection connect(String... options) throws SQLException {
    Properties properties = new Properties();
    properties.setProperty("user", "millstream");
    for (int i = 0; i < options.length; i += 2) {
      properties.setProperty(options[i], options[i + 1]);
    }
    return DriverManager.getConnection(URL, properties);
  }

  static void same(String what, Object found, Object expected) {
    if (!Objects.deepEquals(found, expected)) {
      throw new AssertionError(what + ": " + found + " instead of " + expected);
    }
  }

  static void run(Connection connection, String sql) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      statement.execute(sql);
    }
  }

  /** The named columns of all rows, as text. */
  static List<String> rows(ResultSet result, String... columns) throws SQLException {
    List<String> all = new ArrayList<>();
    try (result) {
      while (result.next()) {
        List<String> row = new ArrayList<>();
        for (String column : columns) {
          row.add(result.getString(column));
        }
        all.add(String.join(" ", row));
      }
    }
    return all;
  }

  static String prepared(Connection connection) throws SQLException {
    try (PreparedStatement statement = connection.prepareStatement("SELECT ?::bigint + 1, ? || '!', ?::int")) {
      // From the fifth time on it is prepared on the server and answers in binary form.
      for (int n = 0; n < 12; n++) {
        statement.setLong(1, n);
        statement.setString(2, "text " + n);
        statement.setObject(3, null, Types.INTEGER);
        try (ResultSet result = statement.executeQuery()) {
          same("row", result.next(), true);
          same("values", List.of(result.getLong(1), result.getString(2)), List.of(n + 1L, "text " + n + "!"));
          result.getInt(3);
          same("NULL", result.wasNull(), true);
        }
      }
      same("parameters", statement.getParameterMetaData().getParameterTypeName(1), "int8");
    }
    return "12 times, prepared on the server from the fifth on";
  }

  static String types(Connection connection) throws SQLException {
    run(connection, "CREATE TABLE java_types (id INT PRIMARY KEY, b BOOL, i2 INT2, i8 INT8, f4 FLOAT4, f8 FLOAT8, n NUMERIC(20,4), t TEXT,"
        + " v VARCHAR(10), by BYTEA, d DATE, ti TIME, ts TIMESTAMP, tz TIMESTAMPTZ, u UUID, j JSONB, xs INT4[], ss TEXT[])");
    LocalDateTime at = LocalDateTime.of(2024, 2, 29, 12, 30, 0, 123456000);
    OffsetDateTime zoned = at.atOffset(ZoneOffset.UTC);
    UUID uuid = UUID.fromString("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    for (String mode : List.of("extended", "simple", "extendedForPrepared")) {
      for (String transfer : List.of("true", "false")) {
        try (Connection other = connect("preferQueryMode", mode, "binaryTransfer", transfer, "prepareThreshold", "-1")) {
          run(other, "DELETE FROM java_types");
          try (PreparedStatement insert =
              other.prepareStatement("INSERT INTO java_types VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?::jsonb,?,?)")) {
            Object[] values = {1, true, (short) -3, 1L << 62, 1.5f, 0.1, new BigDecimal("1234567890.1250"), "té'xt", "short",
              new byte[] {0, -1}, LocalDate.of(1999, 12, 31), LocalTime.of(23, 59, 59), at, zoned, uuid, "{\"a\": 1}",
              other.createArrayOf("int4", new Object[] {1, null, 3}), other.createArrayOf("text", new Object[] {"a,b", null})};
            for (int i = 0; i < values.length; i++) {
              insert.setObject(i + 1, values[i]);
            }
            same("inserted", insert.executeUpdate(), 1);
          }
          try (PreparedStatement select = other.prepareStatement("SELECT * FROM java_types");
              ResultSet row = select.executeQuery()) {
            row.next();
            same("bool", row.getBoolean("b"), true);
            same("int2", row.getShort("i2"), (short) -3);
            same("int8", row.getLong("i8"), 1L << 62);
            same("float4", row.getFloat("f4"), 1.5f);
            same("float8", row.getDouble("f8"), 0.1);
            same("numeric", row.getBigDecimal("n"), new BigDecimal("1234567890.1250"));
            same("text", row.getString("t"), "té'xt");
            same("bytea", row.getBytes("by"), new byte[] {0, -1});
            same("date", row.getObject("d", LocalDate.class), LocalDate.of(1999, 12, 31));
            same("time", row.getObject("ti", LocalTime.class), LocalTime.of(23, 59, 59));
            same("timestamp", row.getObject("ts", LocalDateTime.class), at);
            same("timestamptz", row.getObject("tz", OffsetDateTime.class).toInstant(), zoned.toInstant());
            same("uuid", row.getObject("u"), uuid);
            same("jsonb", row.getString("j").replace(" ", ""), "{\"a\":1}");
            same("int4[]", (Object[]) row.getArray("xs").getArray(), new Object[] {1, null, 3});
            same("text[]", (Object[]) row.getArray("ss").getArray(), new Object[] {"a,b", null});
          }
        }
      }
    }
    return "17 types in three query modes, text and binary";
  }

  static String batch(Connection connection) throws SQLException {
    run(connection, "CREATE TABLE java_batch (id INT PRIMARY KEY, t TEXT)");
    try (PreparedStatement insert = connection.prepareStatement("INSERT INTO java_batch VALUES (?, ?)")) {
      for (int n = 0; n < 500; n++) {
        insert.setInt(1, n);
        insert.setString(2, "t" + n);
        insert.addBatch();
      }
      same("changed", Arrays.stream(insert.executeBatch()).sum(), 500);
    }
    try (Connection other = connect("reWriteBatchedInserts", "true");
        PreparedStatement insert = other.prepareStatement("INSERT INTO java_batch VALUES (?, ?)")) {
      for (int n = 1000; n < 1300; n++) {
        insert.setInt(1, n);
        insert.setString(2, n % 7 == 0 ? null : "t" + n);
        insert.addBatch();
      }
      same("statements", insert.executeBatch().length, 300);
    }
    try (Statement statement = connection.createStatement()) {
      statement.addBatch("UPDATE java_batch SET t = 'x' WHERE id < 10");
      statement.addBatch("DELETE FROM java_batch WHERE id < 5");
      same("changed", statement.executeBatch(), new int[] {10, 5});
      statement.addBatch("INSERT INTO java_batch VALUES (5000, 'x')");
      statement.addBatch("INSERT INTO java_batch VALUES (7, 'x')");
      try {
        statement.executeBatch();
        throw new AssertionError("no error");
      } catch (BatchUpdateException failure) {
        same("SQLSTATE", failure.getSQLState(), "23505");
      }
    }
    same("rows", rows(connection.createStatement().executeQuery("SELECT count(*) AS n FROM java_batch WHERE id < 5000"), "n"), List.of("795"));
    try (PreparedStatement insert =
        connection.prepareStatement("INSERT INTO java_batch VALUES (9000, 'k')", Statement.RETURN_GENERATED_KEYS)) {
      insert.executeUpdate();
      same("generated", rows(insert.getGeneratedKeys(), "id"), List.of("9000"));
    }
    return "500 inserts, 300 rewritten into long ones, a batch that fails, generated keys";
  }

  static String fetchSize(Connection connection) throws SQLException {
    connection.setAutoCommit(false);
    try (Statement statement = connection.createStatement()) {
      statement.setFetchSize(100);
      long sum = 0;
      try (ResultSet result = statement.executeQuery("SELECT g FROM generate_series(1, 1050) AS s(g) ORDER BY g")) {
        while (result.next()) {
          sum += result.getLong(1);
        }
      }
      same("sum", sum, 551775L);
      statement.setMaxRows(10);
      same("rows", rows(statement.executeQuery("SELECT g FROM generate_series(1, 50) AS s(g)"), "g").size(), 10);
    }
    connection.commit();
    connection.setAutoCommit(true);
    try (Statement statement = connection.createStatement(ResultSet.TYPE_SCROLL_INSENSITIVE, ResultSet.CONCUR_READ_ONLY);
        ResultSet result = statement.executeQuery("SELECT g FROM generate_series(1, 5) AS s(g) ORDER BY g")) {
      result.last();
      same("last", result.getInt(1), 5);
      result.absolute(2);
      same("second", result.getInt(1), 2);
    }
    return "1050 rows in parts of 100, getMaxRows, scrolling in the driver";
  }

  static String tables(Connection connection) throws SQLException {
    run(connection, "CREATE TABLE java_meta (a INT NOT NULL, b VARCHAR(20) DEFAULT 'x', c NUMERIC(12,2), d TIMESTAMPTZ, e TEXT[], PRIMARY KEY (c, a))");
    run(connection, "COMMENT ON TABLE java_meta IS 'of Java'");
    run(connection, "COMMENT ON COLUMN java_meta.b IS 'the second'");
    run(connection, "CREATE VIEW java_view AS SELECT a FROM java_meta");
    run(connection, "CREATE MATERIALIZED VIEW java_kept AS SELECT a, count(*) AS n FROM java_meta GROUP BY a");
    DatabaseMetaData meta = connection.getMetaData();
    same("product", meta.getDatabaseProductName(), "PostgreSQL");
    String[] columns = {"TABLE_SCHEM", "TABLE_NAME", "TABLE_TYPE", "REMARKS"};
    same("tables", rows(meta.getTables(null, "public", "java\\_meta%", new String[] {"TABLE"}), columns),
        List.of("public java_meta TABLE of Java"));
    same("views", rows(meta.getTables(null, null, "java\\_%", new String[] {"VIEW", "MATERIALIZED VIEW"}), "TABLE_NAME", "TABLE_TYPE"),
        List.of("java_kept MATERIALIZED VIEW", "java_view VIEW"));
    same("all tables", meta.getTables(null, null, "%", null).next(), true);
    same("columns", rows(meta.getColumns(null, "public", "java_meta", "%"),
        "COLUMN_NAME", "DATA_TYPE", "TYPE_NAME", "COLUMN_SIZE", "NULLABLE", "ORDINAL_POSITION", "REMARKS", "IS_AUTOINCREMENT"),
        List.of("a 4 int4 10 0 1 null NO", "b 12 varchar 20 1 2 the second NO", "c 2 numeric 12 0 3 null NO",
            "d 93 timestamptz 35 1 4 null NO", "e 2003 _text 2147483647 1 5 null NO"));
    same("default", rows(meta.getColumns(null, null, "java_meta", "b"), "COLUMN_DEF"), List.of("'x'"));
    same("key", rows(meta.getPrimaryKeys(null, "public", "java_meta"), "COLUMN_NAME", "KEY_SEQ", "PK_NAME"),
        List.of("c 1 java_meta_pkey", "a 2 java_meta_pkey"));
    same("indexes", rows(meta.getIndexInfo(null, "public", "java_meta", false, true), "INDEX_NAME", "NON_UNIQUE", "COLUMN_NAME"),
        List.of("java_meta_pkey f c", "java_meta_pkey f a"));
    same("best row", rows(meta.getBestRowIdentifier(null, "public", "java_meta", DatabaseMetaData.bestRowSession, true), "COLUMN_NAME"),
        List.of("a", "c"));
    return "getTables, getColumns, getPrimaryKeys, getIndexInfo, getBestRowIdentifier";
  }

  static String catalog(Connection connection) throws SQLException {
    DatabaseMetaData meta = connection.getMetaData();
    same("catalogs", rows(meta.getCatalogs(), "TABLE_CAT"), List.of("millstream"));
    TreeSet<String> schemas = new TreeSet<>(rows(meta.getSchemas(), "TABLE_SCHEM"));
    same("schemas", schemas.containsAll(List.of("public", "pg_catalog", "information_schema")), true);
    same("public", rows(meta.getSchemas(null, "pub%"), "TABLE_SCHEM"), List.of("public"));
    TreeSet<String> names = new TreeSet<>(rows(meta.getTypeInfo(), "TYPE_NAME"));
    same("types", names.containsAll(List.of("int4", "int8", "text", "numeric", "timestamptz", "jsonb", "uuid", "_int4")), true);
    same("table types", rows(meta.getTableTypes(), "TABLE_TYPE").contains("MATERIALIZED VIEW"), true);
    same("foreign keys", rows(meta.getImportedKeys(null, "public", "java_meta"), "FKTABLE_NAME"), List.of());
    same("foreign keys", rows(meta.getExportedKeys(null, "public", "java_meta"), "FKTABLE_NAME"), List.of());
    same("foreign keys", rows(meta.getCrossReference(null, null, "java_meta", null, null, "java_meta"), "FKTABLE_NAME"), List.of());
    run(connection, "CREATE FUNCTION java_twice(x INT) RETURNS INT LANGUAGE SQL AS 'SELECT $1 * 2'");
    same("functions", rows(meta.getFunctions(null, "public", "java%"), "FUNCTION_NAME"), List.of("java_twice"));
    same("arguments", rows(meta.getFunctionColumns(null, "public", "java_twice", null), "COLUMN_NAME", "TYPE_NAME"),
        List.of("returnValue int4", "x int4"));
    meta.getProcedures(null, "public", "%").close();
    meta.getProcedureColumns(null, "public", "java_twice", null).close();
    same("privileges", rows(meta.getTablePrivileges(null, "public", "java_meta"), "PRIVILEGE").contains("SELECT"), true);
    meta.getColumnPrivileges(null, "public", "java_meta", "%").close();
    meta.getUDTs(null, null, "%", null).close();
    meta.getClientInfoProperties().close();
    meta.getVersionColumns(null, "public", "java_meta").close();
    for (String list : List.of(meta.getSQLKeywords(), meta.getNumericFunctions(), meta.getStringFunctions(), meta.getSystemFunctions(),
        meta.getTimeDateFunctions())) {
      same("keywords and functions", list.isEmpty(), false);
    }
    same("name length", meta.getMaxColumnNameLength(), 63);
    return "catalogs, schemas, types, keys, functions, privileges";
  }

  static String resultMetadata(Connection connection) throws SQLException {
    try (PreparedStatement statement = connection.prepareStatement("SELECT a, b AS other, c FROM java_meta WHERE a = ?")) {
      ResultSetMetaData meta = statement.getMetaData();
      same("label", meta.getColumnLabel(2), "other");
      same("type", meta.getColumnTypeName(3), "numeric");
      same("precision", meta.getPrecision(3), 12);
      same("scale", meta.getScale(3), 2);
      same("table", meta.getTableName(2) + "." + ((org.postgresql.PGResultSetMetaData) meta).getBaseColumnName(2), "java_meta.b");
      same("nullable", meta.isNullable(1), ResultSetMetaData.columnNoNulls);
      same("auto", meta.isAutoIncrement(1), false);
    }
    try (Statement statement = connection.createStatement(ResultSet.TYPE_SCROLL_SENSITIVE, ResultSet.CONCUR_UPDATABLE)) {
      run(connection, "INSERT INTO java_meta VALUES (1, 'one', 1.50, NULL, NULL)");
      try (ResultSet rows = statement.executeQuery("SELECT * FROM java_meta")) {
        rows.next();
        rows.updateString("b", "changed");
        rows.updateRow();
      }
      same("changed", rows(statement.executeQuery("SELECT b FROM java_meta"), "b"), List.of("changed"));
    }
    return "labels, types, table and NOT NULL of result columns; a result that is changed in place";
  }

  static String transactions(Connection connection) throws SQLException {
    run(connection, "CREATE TABLE java_steps (id INT PRIMARY KEY)");
    connection.setAutoCommit(false);
    run(connection, "INSERT INTO java_steps VALUES (1)");
    Savepoint savepoint = connection.setSavepoint("here");
    try {
      run(connection, "INSERT INTO java_steps VALUES (1)");
      throw new AssertionError("no error");
    } catch (PSQLException failure) {
      same("error", List.of(failure.getSQLState(), failure.getServerErrorMessage().getTable(),
          failure.getServerErrorMessage().getConstraint()), List.of("23505", "java_steps", "java_steps_pkey"));
    }
    connection.rollback(savepoint);
    run(connection, "INSERT INTO java_steps VALUES (2)");
    connection.commit();
    run(connection, "DELETE FROM java_steps");
    connection.rollback();
    connection.setAutoCommit(true);
    same("rows", rows(connection.createStatement().executeQuery("SELECT id FROM java_steps ORDER BY id"), "id"), List.of("1", "2"));
    connection.setReadOnly(true);
    connection.setAutoCommit(false);
    try {
      run(connection, "INSERT INTO java_steps VALUES (3)");
      throw new AssertionError("no error");
    } catch (SQLException failure) {
      same("error", failure.getSQLState(), "25006");
    }
    connection.rollback();
    connection.setReadOnly(false);
    connection.setTransactionIsolation(Connection.TRANSACTION_REPEATABLE_READ);
    same("isolation", connection.getTransactionIsolation(), Connection.TRANSACTION_REPEATABLE_READ);
    connection.setAutoCommit(true);
    same("schema", connection.getSchema(), "public");
    connection.setSchema("pg_catalog");
    connection.setSchema("public");
    connection.setNetworkTimeout(Runnable::run, 10000);
    same("valid", connection.isValid(5), true);
    return "savepoints, read only, isolation, schema";
  }

  static String copy(Connection connection) throws Exception {
    run(connection, "CREATE TABLE java_copy (id INT PRIMARY KEY, t TEXT)");
    var copy = connection.unwrap(PGConnection.class).getCopyAPI();
    byte[] text = "1\tone\n2\t\\N\n".getBytes(StandardCharsets.UTF_8);
    same("in", copy.copyIn("COPY java_copy FROM STDIN", new ByteArrayInputStream(text)), 2L);
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    same("out", copy.copyOut("COPY (SELECT * FROM java_copy ORDER BY id) TO STDOUT", out), 2L);
    same("text", out.toString(StandardCharsets.UTF_8), "1\tone\n2\t\\N\n");
    ByteArrayOutputStream binary = new ByteArrayOutputStream();
    same("out", copy.copyOut("COPY java_copy TO STDOUT (FORMAT binary)", binary), 2L);
    run(connection, "TRUNCATE java_copy");
    same("in", copy.copyIn("COPY java_copy FROM STDIN (FORMAT binary)", new ByteArrayInputStream(binary.toByteArray())), 2L);
    return "text and binary, both ways";
  }

  static String notifications(Connection connection) throws SQLException {
    run(connection, "LISTEN java_bell");
    try (Connection other = connect()) {
      run(other, "NOTIFY java_bell, 'rung'");
    }
    PGNotification[] notices = connection.unwrap(PGConnection.class).getNotifications(10000);
    same("notice", List.of(notices[0].getName(), notices[0].getParameter()), List.of("java_bell", "rung"));
    return "LISTEN and NOTIFY";
  }

  static String timeouts(Connection connection) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      statement.setQueryTimeout(1);
      try {
        statement.execute("SELECT pg_sleep(30)");
        throw new AssertionError("no error");
      } catch (SQLException failure) {
        same("SQLSTATE", failure.getSQLState(), "57014");
      }
    }
    return "setQueryTimeout cancels";
  }

  public static void main(String[] args) throws Exception {
    Object[][] checks = {
      {"prepared", (Check) Checks::prepared}, {"types", (Check) Checks::types}, {"batch", (Check) Checks::batch},
      {"fetch_size", (Check) Checks::fetchSize}, {"tables", (Check) Checks::tables}, {"catalog", (Check) Checks::catalog},
      {"result_metadata", (Check) Checks::resultMetadata}, {"transactions", (Check) Checks::transactions},
      {"copy", (Check) Checks::copy}, {"notifications", (Check) Checks::notifications}, {"timeouts", (Check) Checks::timeouts},
    };
    int status = 0;
    System.out.println("     pgjdbc " + DriverManager.getDriver(URL).getMajorVersion() + "." + DriverManager.getDriver(URL).getMinorVersion());
    for (Object[] check : checks) {
      try (Connection connection = connect()) {
        System.out.println("ok   " + check[0] + ": " + ((Check) check[1]).run(connection));
      } catch (Throwable failure) {
        status = 1;
        String hint = failure instanceof PSQLException e && e.getServerErrorMessage() != null ? " HINT: " + e.getServerErrorMessage().getHint() : "";
        System.out.println("FAIL " + check[0] + ": " + failure + hint + " at "
            + Arrays.stream(failure.getStackTrace()).filter(f -> f.getClassName().startsWith("Checks")).findFirst().orElse(null));
      }
    }
    System.exit(status);
  }
}
