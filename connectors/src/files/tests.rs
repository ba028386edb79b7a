use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use millstream_catalog::object::{Format, Source};
use millstream_catalog::{Column, SqlType};

use crate::chunk::{ChunkQueue, Positions};
use crate::source::SourceSpec;

fn spec(path: &Path, on_error: &str) -> SourceSpec {
    let options = [("connector", "filesystem"), ("path", path.to_str().unwrap()), ("on_error", on_error)];
    let format =
        Format { format: "plain".into(), encode: "json".into(), options: BTreeMap::new(), ..Format::default() };
    SourceSpec::new(&Source {
        columns: vec![Column::new("n", SqlType::Int8, true)],
        primary_key: Vec::new(),
        watermark: None,
        options: options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        format: Some(format),
    })
    .unwrap()
}

/// Values that come until there are `count`, and positions after them.
fn take(queue: &ChunkQueue, count: usize) -> (Vec<i64>, Positions) {
    let (mut values, mut positions) = (Vec::new(), Positions::new());
    for _ in 0..200 {
        for chunk in queue.take(usize::MAX, usize::MAX) {
            values.extend(chunk.batch.column(0).as_primitive::<Int64Type>().values());
            assert_eq!(
                positions.insert(chunk.partition, chunk.next_offset).unwrap_or(chunk.first_offset),
                chunk.first_offset
            );
        }
        if values.len() >= count {
            break;
        }
        queue.wait(Duration::from_millis(50));
    }
    values.sort_unstable();
    (values, positions)
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn files_are_read_once_and_on_as_they_grow_and_come() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.jsonl"), folder.path().join("b.jsonl"));
    append(&a, "{\"n\":1}\n\n{\"n\":2}\r\n{\"n\":3");
    append(&folder.path().join(".hidden"), "{\"n\":99}\n");
    let spec = spec(folder.path(), "dead_letter");
    let queue = ChunkQueue::new(1 << 20);
    let reader = spec.start(&[0], Positions::new(), queue.clone(), Arc::new(|| {})).unwrap();
    let (values, _) = take(&queue, 2);
    assert_eq!(values, [1, 2]);
    // Half a line is none while more of it comes.
    append(&a, "3}\n");
    append(&b, "{\"n\":4}");
    let (values, positions) = take(&queue, 2);
    assert_eq!(values, [4, 33]);
    drop(reader);
    append(&b, "\n{\"n\":5}\n");
    let queue = ChunkQueue::new(1 << 20);
    let _reader = spec.start(&[0], positions, queue.clone(), Arc::new(|| {})).unwrap();
    assert_eq!(take(&queue, 1).0, [5]);
    let all: Vec<i64> = spec
        .read_bounded(&[0])
        .unwrap()
        .flat_map(|batch| batch.unwrap().batch.column(0).as_primitive::<Int64Type>().values().to_vec())
        .collect();
    assert_eq!(all, [1, 2, 33, 4, 5]);
}

#[test]
fn a_line_that_is_no_record_is_kept_skipped_or_stops_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.jsonl");
    append(&file, "{\"n\":1}\nno\n{\"n\":2}\n");
    for (on_error, expected, dead) in [("dead_letter", vec![1, 2], 1), ("skip", vec![1, 2], 0), ("stop", vec![1], 0)] {
        let spec = spec(&file, on_error);
        let queue = ChunkQueue::new(1 << 20);
        let reader = spec.start(&[0], Positions::new(), queue.clone(), Arc::new(|| {})).unwrap();
        queue.wait(Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(100));
        let chunks = queue.take(usize::MAX, usize::MAX);
        let values: Vec<i64> =
            chunks.iter().flat_map(|c| c.batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(values, expected, "{on_error}");
        let letters: Vec<_> = chunks.iter().flat_map(|c| &c.dead).collect();
        assert_eq!((letters.len(), letters.first().map(|l| l.offset)), (dead, (dead > 0).then_some(8)), "{on_error}");
        let status = reader.status();
        assert_eq!(status.partitions[0].stopped, on_error == "stop");
    }
}

#[test]
fn no_file_is_an_error_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let error = spec(&folder.path().join("*.jsonl"), "skip").probe(Duration::from_secs(1)).unwrap_err();
    assert_eq!(error.sqlstate(), "58P01");
}
