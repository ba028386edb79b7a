//! A bucket under a name of its own, whose errors are ours and whose traffic is counted.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::object_store::path::Path;
use datafusion::object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};

use super::Traffic;
use super::failure::{Place, wrapped};

/// One bucket. Its paths begin with its label, if it has one; what is behind it is the key.
#[derive(Debug, Clone)]
pub struct Bucket {
    inner: Arc<dyn ObjectStore>,
    label: Option<String>,
    place: Arc<Place>,
    traffic: Arc<Traffic>,
}

impl Bucket {
    pub fn new(inner: Arc<dyn ObjectStore>, label: String, place: Place, traffic: Arc<Traffic>) -> Self {
        Self { inner, label: Some(label), place: Arc::new(place), traffic }
    }

    /// The same bucket by its keys.
    pub fn without_label(&self) -> Self {
        Self { label: None, ..self.clone() }
    }

    fn key(&self, path: &Path) -> Path {
        let label = self.label.as_deref().map(|label| Path::from_iter([label]));
        match label.as_ref().and_then(|label| path.prefix_match(label)) {
            Some(rest) => rest.collect(),
            None => path.clone(),
        }
    }

    fn labelled(&self, key: &Path) -> Path {
        match &self.label {
            Some(label) => Path::from_iter([label.as_str()]).parts().chain(key.parts()).collect(),
            None => key.clone(),
        }
    }

    fn meta(&self, meta: ObjectMeta) -> ObjectMeta {
        ObjectMeta { location: self.labelled(&meta.location), ..meta }
    }

    fn asked(&self) {
        Traffic::add(&self.traffic.requests, 1);
    }

    /// Says what was asked of whom.
    fn told<T>(&self, key: &Path, result: Result<T>) -> Result<T> {
        result.map_err(|e| self.error(key, &e))
    }

    fn error(&self, key: &Path, error: &datafusion::object_store::Error) -> datafusion::object_store::Error {
        Traffic::add(&self.traffic.failures, 1);
        wrapped(key, error, self.place.error(key.as_ref(), error))
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bucket \"{}\"", self.place.bucket)
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.asked();
        let key = self.key(location);
        let bytes = payload.content_length() as u64;
        let result = self.told(&key, self.inner.put_opts(&key, payload, opts).await)?;
        Traffic::add(&self.traffic.bytes_written, bytes);
        Ok(result)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.asked();
        let key = self.key(location);
        let upload = self.told(&key, self.inner.put_multipart_opts(&key, opts).await)?;
        Ok(Box::new(Upload { inner: upload, bucket: self.clone(), key }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.asked();
        let key = self.key(location);
        let result = self.told(&key, self.inner.get_opts(&key, options).await)?;
        let payload = match result.payload {
            GetResultPayload::Stream(stream) => {
                let bucket = self.clone();
                let stream = stream.map(move |chunk| match chunk {
                    Ok(bytes) => {
                        Traffic::add(&bucket.traffic.bytes_read, bytes.len() as u64);
                        Ok(bytes)
                    }
                    Err(e) => Err(bucket.error(&key, &e)),
                });
                GetResultPayload::Stream(stream.boxed())
            }
            file => file,
        };
        Ok(GetResult { payload, meta: self.meta(result.meta), range: result.range, attributes: result.attributes })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.asked();
        let key = self.key(location);
        let found = self.told(&key, self.inner.get_ranges(&key, ranges).await)?;
        Traffic::add(&self.traffic.bytes_read, found.iter().map(|bytes| bytes.len() as u64).sum());
        Ok(found)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.asked();
        let (keys, bucket) = (self.clone(), self.clone());
        let locations = locations.map_ok(move |path| keys.key(&path)).boxed();
        let deleted = self.inner.delete_stream(locations);
        deleted
            .map(move |key| match key {
                Ok(key) => Ok(bucket.labelled(&key)),
                Err(e) => Err(bucket.error(&Path::default(), &e)),
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.asked();
        let bucket = self.clone();
        let prefix = prefix.map(|p| self.key(p)).unwrap_or_default();
        let found = self.inner.list(Some(&prefix));
        found.map(move |meta| meta.map(|m| bucket.meta(m)).map_err(|e| bucket.error(&prefix, &e))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.asked();
        let prefix = prefix.map(|p| self.key(p)).unwrap_or_default();
        let found = self.told(&prefix, self.inner.list_with_delimiter(Some(&prefix)).await)?;
        Ok(ListResult {
            common_prefixes: found.common_prefixes.iter().map(|p| self.labelled(p)).collect(),
            objects: found.objects.into_iter().map(|m| self.meta(m)).collect(),
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.asked();
        let (from, to) = (self.key(from), self.key(to));
        self.told(&to, self.inner.copy_opts(&from, &to, options).await)
    }
}

/// An upload in parts: the object is there when all of them are and it is complete.
#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    bucket: Bucket,
    key: Path,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.bucket.asked();
        let bytes = data.content_length() as u64;
        let (part, bucket, key) = (self.inner.put_part(data), self.bucket.clone(), self.key.clone());
        Box::pin(async move {
            bucket.told(&key, part.await)?;
            Traffic::add(&bucket.traffic.bytes_written, bytes);
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.bucket.asked();
        let result = self.inner.complete().await;
        self.bucket.told(&self.key, result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.bucket.asked();
        let result = self.inner.abort().await;
        self.bucket.told(&self.key, result)
    }
}
