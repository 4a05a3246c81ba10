//! Amazon resource names, checked so strictly that no part of a name can change the host that is connected to.

const STREAM_NAME_CHARS_MAX: usize = 128;
const ROLE_NAME_CHARS_MAX: usize = 576;
const REGION_CHARS_MAX: usize = 32;

/// `arn:PARTITION:kinesis:REGION:ACCOUNT:stream/NAME`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamArn<'a> {
    pub(super) partition: &'a str,
    pub(super) region: &'a str,
}

impl<'a> StreamArn<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let [partition, service, region, account, resource] = parts(text)?;
        let name = resource.strip_prefix("stream/")?;
        let valid = service == "kinesis"
            && (1..=REGION_CHARS_MAX).contains(&region.len())
            && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && is_account(account)
            && (1..=STREAM_NAME_CHARS_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        valid.then_some(Self { partition, region })
    }
}

/// The partition of `arn:PARTITION:iam::ACCOUNT:role/NAME`.
pub(super) fn role_partition(text: &str) -> Option<&str> {
    let [partition, service, region, account, resource] = parts(text)?;
    let name = resource.strip_prefix("role/")?;
    let valid = service == "iam"
        && region.is_empty()
        && is_account(account)
        && (1..=ROLE_NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+=,.@_/-".contains(&byte));
    valid.then_some(partition)
}

fn parts(text: &str) -> Option<[&str; 5]> {
    let mut parts = text.strip_prefix("arn:")?.splitn(5, ':');
    let parts = [parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let aws = parts[0] == "aws"
        || parts[0].strip_prefix("aws-").is_some_and(|rest| {
            (1..=16).contains(&rest.len())
                && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
        });
    aws.then_some(parts)
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_arn_gives_partition_and_region() {
        let arn = StreamArn::parse("arn:aws-us-gov:kinesis:us-gov-west-1:123456789012:stream/a_b.c-D9");
        assert_eq!(arn, Some(StreamArn { partition: "aws-us-gov", region: "us-gov-west-1" }));
        for bad in [
            "",
            "orders",
            "arn:aws:kinesis:us-east-1:123456789012:stream/",
            "arn:aws:kinesis:us-east-1:123456789012:orders",
            "arn:aws:kinesis::123456789012:stream/orders",
            "arn:aws:kinesis:us-east-1:12345678901:stream/orders",
            "arn:aws:firehose:us-east-1:123456789012:stream/orders",
            "arn:gcp:kinesis:us-east-1:123456789012:stream/orders",
            "arn:aws:kinesis:evil.example/#:123456789012:stream/orders",
            "arn:aws:kinesis:us-east-1@evil:123456789012:stream/orders",
            "arn:aws:kinesis:us-east-1:123456789012:stream/a/b",
            "arn:aws:kinesis:us-east-1:123456789012:stream/orders/consumer/c:1",
            "arn:aws:kinesis:US-EAST-1:123456789012:stream/orders",
        ] {
            assert_eq!(StreamArn::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn role_arn_gives_its_partition() {
        assert_eq!(role_partition("arn:aws:iam::123456789012:role/path/fanfare+writer"), Some("aws"));
        for bad in [
            "arn:aws:iam::123456789012:user/a",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam:us-east-1:123456789012:role/a",
            "arn:aws:iam::123456789012:role/a b",
            "arn:aws:sts::123456789012:role/a",
        ] {
            assert_eq!(role_partition(bad), None, "{bad}");
        }
    }
}
