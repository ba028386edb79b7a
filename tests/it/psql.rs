//! psql's transcripts: every backslash command, as psql 15 prints it. Another release of psql must do without errors, for it prints
//! some of them otherwise.

use std::io::Write;
use std::process::{Command, Stdio};

use regex::Regex;

use crate::server::Server;

const OBJECTS: &str = "
CREATE TABLE accounts (id BIGINT PRIMARY KEY, holder VARCHAR(40) NOT NULL, risk INT DEFAULT 0 CHECK (risk >= 0),
  balance NUMERIC(12,2), opened TIMESTAMPTZ, tags TEXT[], note JSONB);
COMMENT ON TABLE accounts IS 'who holds what';
COMMENT ON COLUMN accounts.risk IS 'higher is worse';
CREATE VIEW risky AS SELECT id, holder FROM accounts WHERE risk > 5;
CREATE MATERIALIZED VIEW by_risk AS SELECT risk, count(*) AS n FROM accounts GROUP BY risk;
CREATE SOURCE bids (bid_auction BIGINT, bid_price BIGINT, date_time TIMESTAMP, WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  WITH (connector = 'nexmark', events = 10, seed = 3);
CREATE SINK hole FROM by_risk WITH (connector = 'blackhole');
CREATE FUNCTION twice(x INT) RETURNS INT LANGUAGE SQL AS 'SELECT $1 * 2';
COMMENT ON FUNCTION twice IS 'two times';
CREATE SCHEMA other;
COMMENT ON SCHEMA other IS 'what is elsewhere';
CREATE TABLE other.things (a INT);
CREATE EXTERNAL TABLE ledger (d DATE, n INT) STORED AS CSV LOCATION '$DIR/ledger/' OPTIONS (header 'true');
INSERT INTO accounts VALUES (1, 'Ada', 7, 10.50, '2024-01-01 00:00:00+00', ARRAY['a', 'b'], '{\"k\": 1}'), (2, 'Bob', 0, NULL, NULL, NULL, NULL);
";

/// Commands whose output has sizes, which differ from run to run: printed without aligned columns.
const UNALIGNED: [&str; 12] =
    ["\\d+", "\\dt+", "\\dv+", "\\dm+", "\\di+", "\\ds+", "\\dE+", "\\l+", "\\db+", "\\dti+", "\\dP+", "\\dS+"];

struct Transcript {
    server: Server,
    whole: String,
    errors: Vec<String>,
}

impl Transcript {
    fn new() -> Self {
        let server = Server::start();
        let ledger = server.dir().join("ledger");
        std::fs::create_dir(&ledger).expect("a folder");
        std::fs::write(ledger.join("a.csv"), "d,n\n2024-01-01,1\n").expect("a file");
        let transcript = Self { server, whole: String::new(), errors: Vec::new() };
        let said = transcript.run(&OBJECTS.replace("$DIR", &transcript.server.dir().display().to_string()), &["-q"]);
        assert_eq!(said, "", "the objects are made");
        transcript
    }

    /// What psql prints for a script: its output, then its errors.
    fn run(&self, script: &str, options: &[&str]) -> String {
        let mut command = Command::new("psql");
        command.args(["-X", "-h", "127.0.0.1", "-U", "millstream", "-d", "millstream", "-f", "-"]).args(options);
        command.arg("-p").arg(self.server.port().to_string());
        command.env("PAGER", "cat").env("PSQL_EDITOR", "true").env("PGTZ", "UTC").env("LC_ALL", "C.UTF-8");
        command.current_dir(self.server.dir());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("psql starts");
        child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("psql reads");
        let output = child.wait_with_output().expect("psql ends");
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Adds a command with what psql prints.
    fn show(&mut self, command: &str) {
        let word = command.split_whitespace().next().unwrap_or_default();
        let has_sizes = UNALIGNED.contains(&command) || (UNALIGNED.contains(&word) && word != "\\d+");
        let options: &[&str] = if has_sizes { &["-A"] } else { &[] };
        let mut said = self.steady(&self.run(&format!("{command}\n"), options));
        if command == "\\dFp+" {
            // Its query is a UNION without an order.
            let mut lines: Vec<&str> = said.lines().collect();
            lines.sort_unstable();
            said = lines.join("\n");
        }
        if said.contains("ERROR:") {
            self.errors.push(format!("{command}\n{said}"));
        }
        self.whole.push_str(&format!("millstream=# {command}\n{}\n\n", said.trim_end()));
    }

    /// Without what differs from run to run.
    fn steady(&self, said: &str) -> String {
        let said = said
            .replace(&self.server.port().to_string(), "PORT")
            .replace(&self.server.dir().display().to_string(), "DIR");
        let said = Regex::new(r"\|\d+ (bytes|kB|MB)").expect("a pattern").replace_all(&said, "|SIZE").into_owned();
        let said = Regex::new(r"\w{3} \w{3} +\d+ [\d:]+ \d{4} \(every")
            .expect("a pattern")
            .replace_all(&said, "NOW (every")
            .into_owned();
        Regex::new(r"psql:<stdin>:\d+: ").expect("a pattern").replace_all(&said, "").into_owned()
    }

    /// Compares with the snapshot, where psql prints what it was made with.
    fn holds(self, name: &str) {
        assert!(self.errors.is_empty(), "{}", self.errors.join("\n"));
        let version = Command::new("psql").arg("--version").output().expect("psql runs").stdout;
        let version = String::from_utf8_lossy(&version).into_owned();
        if !version.contains(" 15.") {
            let text =
                format!("SKIPPED: psql's transcript {name} is compared with that of psql 15, and this is {version}");
            std::io::stderr().write_all(text.as_bytes()).expect("standard error");
            return;
        }
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(format!("psql_{name}"), self.whole);
        });
    }
}

#[test]
fn relations() {
    let mut psql = Transcript::new();
    for command in [
        "\\d",
        "\\d+",
        "\\d accounts",
        "\\d+ accounts",
        "\\d risky",
        "\\d+ risky",
        "\\d by_risk",
        "\\d+ by_risk",
        "\\d bids",
        "\\d+ bids",
        "\\d hole",
        "\\d+ hole",
        "\\d ledger",
        "\\d+ ledger",
        "\\d accounts_pkey",
        "\\d+ accounts_pkey",
        "\\d other.*",
        "\\dt",
        "\\dt+",
        "\\dv",
        "\\dv+",
        "\\dm",
        "\\dm+",
        "\\di",
        "\\di+",
        "\\ds",
        "\\ds+",
        "\\dE",
        "\\dE+",
        "\\dti",
        "\\dt *.things",
        "\\dP",
        "\\dP+",
        "\\dS pg_cl*",
        "\\dp",
        "\\dp accounts",
        "\\z",
        "\\dn",
        "\\dn+",
        "\\dd",
        "\\sv risky",
        "\\sv+ risky",
        "\\det",
        "\\det+",
        "\\des",
        "\\des+",
        "\\dew",
        "\\dew+",
        "\\deu",
        "\\deu+",
    ] {
        psql.show(command);
    }
    psql.holds("relations");
}

#[test]
fn other_objects() {
    let mut psql = Transcript::new();
    for command in [
        "\\df",
        "\\df+",
        "\\dfn *.twice",
        "\\df abs",
        "\\dfa count",
        "\\da string_agg",
        "\\sf twice",
        "\\sf+ twice",
        "\\ef twice",
        "\\dT",
        "\\dT+",
        "\\dT+ int4",
        "\\dx",
        "\\dx+",
        "\\db",
        "\\db+",
        "\\dD",
        "\\dD+",
        "\\dc",
        "\\dc+",
        "\\dC int4",
        "\\dC+ int4",
        "\\do",
        "\\do+",
        "\\doS = int4 int4",
        "\\dO",
        "\\dO+",
        "\\dF",
        "\\dF+ english",
        "\\dFd",
        "\\dFd+",
        "\\dFp",
        "\\dFp+",
        "\\dFt",
        "\\dFt+",
        "\\dL",
        "\\dL+",
        "\\du",
        "\\du+",
        "\\dg",
        "\\drds",
        "\\ddp",
        "\\dRp",
        "\\dRp+",
        "\\dRs",
        "\\dRs+",
        "\\dX",
        "\\dy",
        "\\dy+",
        "\\dl",
        "\\dl+",
        "\\lo_list",
        "\\dA",
        "\\dA+",
        "\\dAc btree int4",
        "\\dAf btree int4",
        "\\dAo btree integer_ops",
        "\\dAp btree integer_ops",
        "\\dconfig",
        "\\dconfig search_path",
        "\\dconfig+ statement_timeout",
        "\\l",
        "\\l+",
    ] {
        psql.show(command);
    }
    psql.holds("other_objects");
}

#[test]
fn queries() {
    let mut psql = Transcript::new();
    for command in [
        "SELECT id, holder, tags FROM accounts ORDER BY id;",
        "\\x\nSELECT * FROM accounts ORDER BY id;",
        "\\x auto\nSELECT 1 AS one;",
        "SELECT id, holder FROM accounts WHERE id = 1 \\gx",
        "SELECT id, balance, tags, opened, count(*) FROM accounts GROUP BY 1, 2, 3, 4 \\gdesc",
        "SELECT id AS number, holder FROM accounts WHERE id = 1 \\gset it_\n\\echo :it_number :'it_holder'\nSELECT :it_number + 1 AS next;",
        "SELECT 'SELECT ' || id || ' AS made' FROM accounts ORDER BY id \\gexec",
        "SELECT holder, risk, n FROM (VALUES ('Ada', 1, 2), ('Ada', 2, 3), ('Bob', 1, 4)) AS v(holder, risk, n) \\crosstabview",
        "\\copy accounts (id, holder) TO 'accounts.csv' CSV HEADER\n\\! cat accounts.csv",
        "\\copy other.things FROM PROGRAM 'seq 3'\nSELECT sum(a) FROM other.things;",
        "\\copy (SELECT id FROM accounts ORDER BY id) TO STDOUT",
        "\\copy accounts TO 'accounts.bin' WITH (FORMAT binary)\nDELETE FROM accounts;\n\\copy accounts FROM 'accounts.bin' WITH (FORMAT binary)\nSELECT holder, note FROM accounts ORDER BY id;",
        "\\timing off\nSELECT 1;",
        "\\conninfo",
        "\\encoding",
        "\\encoding UTF8\n\\encoding",
        "\\set ON_ERROR_ROLLBACK on\nBEGIN;\nSELECT 1 / 0;\nSELECT 'goes on' AS it;\nCOMMIT;",
        "SELECT nothing;\n\\errverbose",
        "SELECT 1 AS a\\; SELECT 2 AS b;",
        "\\pset null '(null)'\nSELECT balance FROM accounts ORDER BY id;",
        "\\pset format csv\nSELECT id, holder FROM accounts ORDER BY id;",
        "\\a\n\\t\nSELECT id, holder FROM accounts ORDER BY id;",
        "\\H\nSELECT 1 AS one;",
        "\\o kept.txt\nSELECT 5 AS kept;\n\\o\n\\! cat kept.txt",
        "\\i nowhere.sql",
        "\\if true\n\\echo yes\n\\else\n\\echo no\n\\endif",
        "\\c millstream\nSELECT current_database();",
        "\\set FETCH_COUNT 2\nSELECT g FROM generate_series(1, 5) AS s(g);",
        "\\prompt name\nworld\n\\echo :name",
        "\\qecho here",
        "\\warn there",
        "\\h SELECT nothing",
    ] {
        // Errors are wanted in some of them.
        psql.show(command);
    }
    psql.errors.clear();
    psql.holds("queries");
}

/// `\watch` shows a view moving: a transaction's reads are of its first statement's epoch. It ends with the statement's first error.
#[test]
fn watch() {
    let psql = Transcript::new();
    let script = "CREATE TABLE ticks (n INT);\nCREATE MATERIALIZED VIEW ticked AS SELECT count(*) AS n FROM ticks;\n\
                  INSERT INTO ticks SELECT 1 / (3 - n)::int FROM ticked\\; SELECT n FROM ticked \\watch 0.1\n";
    let said = psql.steady(&psql.run(script, &["-q"]));
    let numbers: Vec<&str> = said.lines().map(str::trim).filter(|line| line.parse::<u8>().is_ok()).collect();
    assert_eq!(numbers, ["0", "1", "2"], "{said}");
    assert!(said.contains("division by zero"), "{said}");
}
