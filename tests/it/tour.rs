//! README.md's tour says what a server really answers: `dev/tour.sh` runs its blocks and gives the same section.

use std::process::Command;

use crate::kafka;
use crate::server::Server;

#[test]
fn the_tour_is_true() {
    let root = env!("CARGO_MANIFEST_DIR");
    let readme = std::fs::read_to_string(format!("{root}/README.md")).expect("README.md");
    let (_, rest) = readme.split_once("<!-- tour:").expect("the beginning of the tour");
    let (_, rest) = rest.split_once("-->\n").expect("the end of a comment");
    let (section, _) = rest.split_once("<!-- end of the tour").expect("the end of the tour");
    assert!(section.matches("```text").count() > 5, "the tour has no output");

    let server = Server::start();
    let mut command = Command::new(format!("{root}/dev/tour.sh"));
    command.env("MILLSTREAM_PORT", server.port().to_string());
    command.env("KAFKA_BOOTSTRAP", kafka::bootstrap());
    command.env("TOUR_DIR", server.dir().join("tour"));
    let output = command.output().expect("bash runs dev/tour.sh");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "dev/tour.sh: {}\n{said}", output.status);
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(
        found == section,
        "README.md's tour says something else; dev/tour.sh --write mends it. Found:\n{found}\n{said}"
    );
}
