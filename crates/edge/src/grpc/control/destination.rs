//! Destinations as answers show them: credentials that stand in the URL are masked.

const MASK: &str = "***";

/// `url` with the mask in place of its password, or of its user if there is no password, and of the value of each
/// query parameter. The same for the same URL.
pub(super) fn masked(url: &str) -> String {
    let (rest, fragment) = split(url, '#');
    let (rest, query) = split(rest, '?');
    let mut shown = with_masked_user_info(rest);
    if let Some(query) = query {
        shown.push('?');
        shown.push_str(&query.split('&').map(masked_parameter).collect::<Vec<_>>().join("&"));
    }
    if let Some(fragment) = fragment {
        shown.push('#');
        shown.push_str(fragment);
    }
    shown
}

/// True if `url` holds the mask where a credential would stand.
pub(super) fn is_masked(url: &str) -> bool {
    url.contains(MASK) && masked(url) == url
}

fn split(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// `url` ends before its query.
fn with_masked_user_info(url: &str) -> String {
    let after_scheme = url.find(':').map_or(0, |colon| colon + 1);
    // As receivers of URLs do: any number of slashes of either kind.
    let is_slash = |letter| matches!(letter, '/' | '\\');
    let host = url.len() - url[after_scheme..].trim_start_matches(is_slash).len();
    let authority = &url[host..];
    let authority = &authority[..authority.find(is_slash).unwrap_or(authority.len())];
    let Some((user_info, _)) = authority.rsplit_once('@') else { return url.to_owned() };
    let secret = match user_info.split_once(':') {
        Some((user, password)) if !password.is_empty() => user.len() + 1,
        _ => 0,
    };
    if user_info.is_empty() {
        return url.to_owned();
    }
    format!("{}{MASK}{}", &url[..host + secret], &url[host + user_info.len()..])
}

fn masked_parameter(parameter: &str) -> String {
    match parameter.split_once('=') {
        Some((name, value)) if !value.is_empty() => format!("{name}={MASK}"),
        None if !parameter.is_empty() => MASK.to_owned(),
        _ => parameter.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked_and_nothing_else() {
        let table = [
            ("https://example.com/hook", "https://example.com/hook"),
            ("https://example.com/a@b:c", "https://example.com/a@b:c"),
            ("https://user:secret@example.com/hook", "https://user:***@example.com/hook"),
            ("https://user:p@ss@example.com", "https://user:***@example.com"),
            ("https://:secret@example.com", "https://:***@example.com"),
            ("https://secret@example.com/", "https://***@example.com/"),
            ("https://secret:@example.com/", "https://***@example.com/"),
            ("https:user:secret@example.com", "https:user:***@example.com"),
            (r"https:\\user:secret@example.com\x", r"https:\\user:***@example.com\x"),
            (
                "https://example.com?token=secret&empty=&secret#part",
                "https://example.com?token=***&empty=&***#part",
            ),
            ("https://example.com/?a=b?c=d", "https://example.com/?a=***"),
            ("", ""),
        ];
        for (url, shown) in table {
            assert_eq!(masked(url), shown, "{url}");
            assert!(!is_masked(url) && is_masked(shown) == shown.contains(MASK), "{url}");
        }
    }
}
