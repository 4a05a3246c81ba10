//! The payload of the load generator: an order of ten typed fields with random values, of a given size,
//! and the JSON Schema it satisfies.

use jiff::Timestamp;
use rand::{Rng, RngExt};

/// The JSON Schema of every payload.
pub(super) const SCHEMA: &str = include_str!("payload.schema.json");
/// The fields before the note fit into this.
pub(super) const SIZE_BYTES_MIN: u32 = 640;
pub(super) const SIZE_BYTES_MAX: u32 = 256 << 10;

const STATUSES: [&str; 6] = ["placed", "paid", "packed", "shipped", "delivered", "returned"];
const CURRENCIES: [&str; 5] = ["EUR", "INR", "JPY", "KES", "USD"];
const COUNTRIES: [&str; 6] = ["DE", "FR", "IN", "JP", "KE", "US"];
const LOWER: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const DIGITS: &[u8] = b"0123456789";
const WORDS: &[u8] = b"abcdefghijklmnopqrstuvwxyz      ";
/// 2001-09-09 to 2033-05-18.
const UNIX_SECONDS: std::ops::Range<i64> = 1_000_000_000..2_000_000_000;

/// One order as JSON, exactly `size_bytes` long.
pub(super) fn order(size_bytes: usize, rng: &mut impl Rng) -> String {
    let mut json = format!(
        concat!(
            r#"{{"orderId":"ord_{:016x}","status":"{}","placedAt":"{}","totalCents":{},"currency":"{}","#,
            r#""express":{},"discount":{:.2},"customer":{},"items":{},"note":""#
        ),
        rng.random::<u64>(),
        pick(&STATUSES, rng),
        Timestamp::from_second(rng.random_range(UNIX_SECONDS)).expect("within the range of timestamps"),
        rng.random_range(100..1_000_000),
        pick(&CURRENCIES, rng),
        rng.random::<bool>(),
        rng.random_range(0.0..1.0),
        customer(rng),
        items(rng),
    );
    let note = size_bytes.saturating_sub(json.len() + 2);
    json.push_str(&letters(WORDS, note, rng));
    json.push_str("\"}");
    json
}

fn customer(rng: &mut impl Rng) -> String {
    let mut word = |from: usize, to: usize| {
        let length = rng.random_range(from..to);
        letters(LOWER, length, rng)
    };
    let (name, mailbox, domain, city) = (word(4, 20), word(3, 12), word(3, 12), word(4, 16));
    format!(
        concat!(
            r#"{{"id":{},"name":"{}","email":"{}@{}.example","#,
            r#""address":{{"city":"{}","country":"{}","postcode":"{}"}}}}"#
        ),
        rng.random_range(1..10_000_000),
        name,
        mailbox,
        domain,
        city,
        pick(&COUNTRIES, rng),
        letters(DIGITS, 5, rng),
    )
}

fn items(rng: &mut impl Rng) -> String {
    let items: Vec<_> = (0..rng.random_range(2..5))
        .map(|_| {
            format!(
                r#"{{"sku":"{}-{}","quantity":{},"priceCents":{}}}"#,
                letters(UPPER, 2, rng),
                letters(DIGITS, 6, rng),
                rng.random_range(1..100),
                rng.random_range(1..100_000),
            )
        })
        .collect();
    format!("[{}]", items.join(","))
}

fn pick<'a>(values: &[&'a str], rng: &mut impl Rng) -> &'a str {
    values[rng.random_range(0..values.len())]
}

fn letters(alphabet: &[u8], length: usize, rng: &mut impl Rng) -> String {
    (0..length).map(|_| char::from(alphabet[rng.random_range(0..alphabet.len())])).collect()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_payload_fits_the_schema_and_has_its_size() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let mut rng = StdRng::seed_from_u64(7);
        for size in [SIZE_BYTES_MIN, 1024, 1024, 1024, 20_000, SIZE_BYTES_MAX] {
            for _ in 0..50 {
                let text = order(size as usize, &mut rng);
                let payload: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(text.len(), size as usize);
                assert!(validator.is_valid(&payload), "{:?}", validator.iter_errors(&payload).next());
                assert_eq!(payload.as_object().unwrap().len(), 10);
            }
        }
    }

    #[test]
    fn the_schema_refuses_each_field_when_it_is_missing_or_of_another_type() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let payload: Value = serde_json::from_str(&order(1024, &mut StdRng::seed_from_u64(7))).unwrap();
        for field in payload.as_object().unwrap().keys() {
            let mut missing = payload.clone();
            missing.as_object_mut().unwrap().remove(field);
            assert!(!validator.is_valid(&missing), "{field} may be missing");
            let mut null = payload.clone();
            null[field] = Value::Null;
            assert!(!validator.is_valid(&null), "{field} may be null");
        }
    }
}
