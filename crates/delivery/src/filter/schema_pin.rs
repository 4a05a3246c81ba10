//! Delivery at a pinned schema version: an event goes out naming that version, or not at all.

use std::sync::Arc;

use fanfare_catalog::json_schema::{SchemaCache, dataschema_uri, parse_dataschema};
use fanfare_model::Event;

/// The schema version at which a subscription receives one event type.
#[derive(Debug)]
pub struct SchemaPin {
    schema_id: String,
    version: u32,
    uri: Arc<str>,
    document: Arc<str>,
    cache: Arc<SchemaCache>,
}

impl SchemaPin {
    pub(crate) fn new(schema_id: &str, version: u32, document: Arc<str>, cache: Arc<SchemaCache>) -> Self {
        let uri = dataschema_uri(schema_id, version).into();
        Self { schema_id: schema_id.to_owned(), version, uri, document, cache }
    }

    /// True if the pin was made of this document. Documents are shared, so that a comparison of pointers suffices.
    pub(super) fn is_of(&self, schema_id: &str, document: &Arc<str>) -> bool {
        self.schema_id == schema_id && Arc::ptr_eq(&self.document, document)
    }

    /// The `dataschema` to deliver the event with. None if the event itself names this version: publishing validated
    /// the event against it.
    ///
    /// # Errors
    /// One line that names the JSON pointer, if the data is not valid against this version.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<Option<Arc<str>>, String> {
        let event = Event::parse(bytes).map_err(|error| error.to_string())?;
        let declared = event.text_attribute("dataschema").and_then(parse_dataschema);
        if declared == Some((self.schema_id.as_str(), self.version)) {
            return Ok(None);
        }
        let schema = self.cache.compiled(&self.document).map_err(|problem| problem.to_string())?;
        match schema.validate(event.data) {
            Ok(()) => Ok(Some(self.uri.clone())),
            Err(problem) => {
                Err(format!("not valid against version {} of {}: {problem}", self.version, self.schema_id))
            }
        }
    }
}
