use super::{destination::UrlError, *};

fn allows(policy: &EgressPolicy, address: &str) -> bool {
    policy.allows(address.parse().unwrap_or_else(|_| panic!("{address} is an address")))
}

/// First and last address of each network that is not public, and the public addresses beside the network.
#[test]
fn boundaries_of_forbidden_networks_are_exact() {
    let policy = EgressPolicy::default();
    for (before, first, last, after) in [
        ("", "0.0.0.0", "0.255.255.255", "1.0.0.0"),
        ("9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"),
        ("100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"),
        ("126.255.255.255", "127.0.0.0", "127.255.255.255", "128.0.0.0"),
        ("169.253.255.255", "169.254.0.0", "169.254.255.255", "169.255.0.0"),
        ("172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"),
        ("191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"),
        ("192.0.1.255", "192.0.2.0", "192.0.2.255", "192.0.3.0"),
        ("192.88.98.255", "192.88.99.0", "192.88.99.255", "192.88.100.0"),
        ("192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"),
        ("198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"),
        ("198.51.99.255", "198.51.100.0", "198.51.100.255", "198.51.101.0"),
        ("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"),
        ("223.255.255.255", "224.0.0.0", "255.255.255.255", ""),
        ("168.63.129.15", "168.63.129.16", "168.63.129.16", "168.63.129.17"),
        ("", "::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2000::"),
        (
            "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001::",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:200::",
        ),
        (
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db9::",
        ),
        (
            "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2002::",
            "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2003::",
        ),
        (
            "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff::",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff:1000::",
        ),
        ("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", ""),
    ] {
        for public in [before, after].into_iter().filter(|address| !address.is_empty()) {
            assert!(allows(&policy, public), "{public} is public");
        }
        for forbidden in [first, last] {
            assert!(!allows(&policy, forbidden), "{forbidden} is not public");
        }
    }
}

#[test]
fn ipv4_address_within_ipv6_is_judged_as_ipv4() {
    let policy = EgressPolicy::default();
    for forbidden in [
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "::8.8.8.8",
        "::1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::",
        "2002:808:808::",
        "fd00:ec2::254",
        "fe80::1",
        "fc00::1",
        "fd00::1",
        "fdff:ffff::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "::",
        "::ffff:0.0.0.0",
        "::ffff:100.64.0.1",
        "::ffff:224.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::192.168.1.1",
        "64:ff9b::100.64.0.1",
        "64:ff9b::169.254.169.254",
        "2001::1",
        "2002:a00:1::",
        "100::1",
        "5f00::1",
    ] {
        assert!(!allows(&policy, forbidden), "{forbidden} is not public");
    }
    for public in ["::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2606:4700::1111"] {
        assert!(allows(&policy, public), "{public} is public");
    }
}

#[test]
fn operator_can_allow_networks_but_never_metadata_services() {
    let open = EgressPolicy {
        allow_cidrs: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        ..EgressPolicy::default()
    };
    for allowed in ["10.0.0.1", "127.0.0.1", "::1", "fd00::1", "169.254.1.1"] {
        assert!(allows(&open, allowed), "{allowed} was opened");
    }
    for metadata in [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "2002:a9fe:a9fe::",
        "169.254.170.2",
        "168.63.129.16",
        "100.100.100.200",
        "169.254.42.42",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:42::42",
    ] {
        assert!(!allows(&open, metadata), "{metadata} hands out credentials");
    }
    let one = EgressPolicy { allow_cidrs: vec!["10.1.0.0/16".parse().unwrap()], ..EgressPolicy::default() };
    assert!(allows(&one, "10.1.2.3") && allows(&one, "::ffff:10.1.2.3"));
    assert!(!allows(&one, "10.2.0.0") && !allows(&one, "10.0.255.255") && !allows(&one, "127.0.0.1"));
}

#[test]
fn allowing_loopback_allows_nothing_else() {
    let dev = EgressPolicy { allow_loopback: true, ..EgressPolicy::default() };
    for allowed in ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"] {
        assert!(allows(&dev, allowed), "{allowed} is loopback");
    }
    for forbidden in ["0.0.0.0", "::", "10.0.0.1", "::127.0.0.1", "2002:7f00:1::", "169.254.169.254"] {
        assert!(!allows(&dev, forbidden), "{forbidden} is not loopback");
    }
}

#[test]
fn every_spelling_of_a_forbidden_host_is_refused() {
    let policy = EgressPolicy::default();
    for host in [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "0177.1",
        "127.0.0.1.",
        "0",
        "0.0.0.0",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
        "127。0。0。1",
        "①②⑦.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fd00:ec2::254]",
        "user:secret@127.0.0.1",
        "example.com@127.0.0.1",
        "example.com:pass@[::1]",
    ] {
        let url = format!("https://{host}/");
        assert_eq!(parse_url(&url, &policy).err(), Some(UrlError::Address), "{url}");
    }
}

#[test]
fn ambiguous_or_unsupported_url_is_refused() {
    let policy = EgressPolicy::default();
    for (url, problem) in [
        ("https://example.com\\@127.0.0.1/", UrlError::Character("a backslash")),
        ("https://exam\tple.com/", UrlError::Character("white space or control characters")),
        ("https://example.com/\n", UrlError::Character("white space or control characters")),
        (" https://example.com/", UrlError::Character("white space or control characters")),
        ("https://example.com/#a", UrlError::Fragment),
        ("http://example.com/", UrlError::PlainHttp),
        ("ftp://example.com/", UrlError::Scheme("ftp".to_owned())),
        ("file:///etc/passwd", UrlError::Scheme("file".to_owned())),
        ("https://example.com:25/", UrlError::Port(25)),
        ("https://example.com:80/", UrlError::Port(80)),
        ("https://example.com:0/", UrlError::Port(0)),
        ("https://", UrlError::Malformed(url::ParseError::EmptyHost)),
        ("example.com/hook", UrlError::Malformed(url::ParseError::RelativeUrlWithoutBase)),
        ("https://[fe80::1%25eth0]/", UrlError::Malformed(url::ParseError::InvalidIpv6Address)),
        ("https://256.1.1.1/", UrlError::Malformed(url::ParseError::InvalidIpv4Address)),
        (&format!("https://example.com/{}", "a".repeat(2048)), UrlError::TooLong),
    ] {
        assert_eq!(parse_url(url, &policy).err(), Some(problem), "{url}");
    }
    for url in [
        "https://example.com",
        "https://EXAMPLE.com.:8443/a?b=c",
        "https://bücher.example/",
        "https://8.8.8.8/",
    ] {
        assert!(parse_url(url, &policy).is_ok(), "{url}");
    }
    let plain = EgressPolicy { allow_http: true, ..policy };
    assert!(parse_url("http://example.com/", &plain).is_ok());
}
