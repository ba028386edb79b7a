//! Events as the JSON that other systems' Nexmark reads: one object an event, with the three kinds nested in it.

use std::fmt::Write;

use super::model::{Kind, Model};
use super::{EVENT_RATE, FIRST_EVENT_US};

/// The events of a source without options but its seed, as JSON.
#[derive(Debug, Clone)]
pub struct JsonEvents {
    model: Model,
}

impl JsonEvents {
    /// The events that `WITH (connector = 'nexmark', seed = …)` gives.
    pub fn new(seed: u64) -> Self {
        Self { model: Model::new(seed, FIRST_EVENT_US, EVENT_RATE) }
    }

    /// Appends event `n` without a line break. Times have milliseconds, as Flink writes them. No text of an event has a
    /// character that JSON escapes.
    pub fn append(&self, n: u64, out: &mut String) {
        let (model, kind) = (&self.model, Kind::of(n));
        let mut object = Object { out, model, n };
        match kind {
            Kind::Person => {
                object.out.push_str("{\"event_type\":0,\"person\":{");
                object.number("\"id\":", model.person_id(n));
                object.text(",\"name\":\"", Model::name);
                object.text(",\"emailAddress\":\"", Model::email_address);
                object.text(",\"creditCard\":\"", Model::credit_card);
                object.text(",\"city\":\"", Model::city);
                object.text(",\"state\":\"", Model::state);
                object.time(",\"dateTime\":\"", model.date_time(n));
                object.text(",\"extra\":\"", Model::extra);
                object.out.push_str("},\"auction\":null,\"bid\":null}");
            }
            Kind::Auction => {
                object.out.push_str("{\"event_type\":1,\"person\":null,\"auction\":{");
                object.number("\"id\":", model.auction_id(n));
                object.text(",\"itemName\":\"", Model::item_name);
                object.text(",\"description\":\"", Model::description);
                object.number(",\"initialBid\":", model.initial_bid(n));
                object.number(",\"reserve\":", model.reserve(n));
                object.time(",\"dateTime\":\"", model.date_time(n));
                object.time(",\"expires\":\"", model.expires(n));
                object.number(",\"seller\":", model.seller(n));
                object.number(",\"category\":", model.category(n));
                object.text(",\"extra\":\"", Model::extra);
                object.out.push_str("},\"bid\":null}");
            }
            Kind::Bid => {
                object.out.push_str("{\"event_type\":2,\"person\":null,\"auction\":null,\"bid\":{");
                object.number("\"auction\":", model.auction(n));
                object.number(",\"bidder\":", model.bidder(n));
                object.number(",\"price\":", model.price(n));
                object.text(",\"channel\":\"", Model::channel);
                object.text(",\"url\":\"", Model::url);
                object.time(",\"dateTime\":\"", model.date_time(n));
                object.text(",\"extra\":\"", Model::extra);
                object.out.push_str("}}");
            }
        }
    }
}

/// An object that is being written.
struct Object<'a> {
    out: &'a mut String,
    model: &'a Model,
    n: u64,
}

impl Object<'_> {
    fn number(&mut self, before: &str, value: i64) {
        self.out.push_str(before);
        // Writing to a String does not fail.
        let _ = write!(self.out, "{value}");
    }

    fn text(&mut self, before: &str, append: fn(&Model, u64, &mut String)) {
        self.out.push_str(before);
        append(self.model, self.n, self.out);
        self.out.push('"');
    }

    fn time(&mut self, before: &str, us: i64) {
        self.out.push_str(before);
        let us = us.div_euclid(1000) * 1000;
        if let Some(value) = arrow::temporal_conversions::timestamp_us_to_datetime(us) {
            let _ = write!(self.out, "{}", value.format("%Y-%m-%d %H:%M:%S%.3f"));
        }
        self.out.push('"');
    }
}
