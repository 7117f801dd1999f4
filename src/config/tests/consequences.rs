//! One mistake is one error, with the right advice, and many mistakes end.

use super::*;

/// Returns the kinds and the advice of all errors.
fn all(text: &str) -> Vec<(&'static str, String)> {
    let list = diagnostics(text);
    let list = list.iter();
    list.map(|it| (it.kind.name(), it.kind.advice())).collect()
}

#[test]
fn a_key_with_a_typo_is_not_missing_too() {
    let text = format!("version = 1\n{}", GOOD.replace("prefixes", "prefixs"));
    assert_eq!(
        all(&text),
        [("unknown-key", "did you mean \"prefixes\"?".to_owned())]
    );
    // Another missing key is a mistake of its own.
    let text = text.replace("ports = [3478, '10000-60000']\n", "");
    let kinds: Vec<_> = all(&text).into_iter().map(|it| it.0).collect();
    assert_eq!(kinds, ["missing-key", "unknown-key"]);
}

#[test]
fn names_of_services_that_an_error_hides_are_not_unknown() {
    let tail = "enable = ['talkdesk-signalling', 'lab']\n";
    for (text, kind) in [
        ("version = 1\ninclude = ['talkdesc']\n", "unknown-name"),
        ("version = 1\ninclude = 'talkdesk'\n", "type"),
    ] {
        let kinds: Vec<_> = all(&format!("{text}{tail}"))
            .into_iter()
            .map(|it| it.0)
            .collect();
        assert_eq!(kinds, [kind], "{text}");
    }
    let tail = "enable = ['lab']\n";
    for (from, to, kind) in [
        ("[[service]]", "[service]", "single-brackets"),
        ("[[service]]", "[[servce]]", "unknown-key"),
        ("'lab'", "'-lab'", "service-name"),
        ("name = ", "nam = ", "unknown-key"),
    ] {
        let text = format!("version = 1\n{tail}{}", GOOD.replace(from, to));
        let kinds: Vec<_> = all(&text).into_iter().map(|it| it.0).collect();
        assert_eq!(kinds, [kind], "{text}");
    }
    let text = format!("version = 1\nenable = ['lob']\n{GOOD}");
    assert_eq!(all(&text)[0].0, "unknown-name");
}

#[test]
fn single_brackets_and_host_names_have_their_own_advice() {
    let text = format!("version = 1\n{}", GOOD.replace("[[service]]", "[service]"));
    assert_eq!(
        all(&text),
        [("single-brackets", "write [[service]]".to_owned())]
    );
    for (host, is_host) in [
        ("media.example.com", true),
        ("localhost", true),
        ("1.2.3.4", false),
        ("fe80::x", false),
    ] {
        let text = format!("version = 1\n{}", GOOD.replace("198.18.0.0/15", host));
        let advice = &all(&text)[0].1;
        assert_eq!(
            advice.contains("a host name is no prefix"),
            is_host,
            "{host}: {advice}"
        );
    }
}

#[test]
fn a_thousand_errors_end_after_fifty_with_a_count() {
    let lines: Vec<_> = (0..1_000)
        .map(|number| format!("key{number} = 1"))
        .collect();
    let lines = lines.join("\n");
    let error = Config::parse("it.toml", &format!("version = 1\n{lines}"));
    let error = error.expect_err("no key is known");
    assert_eq!(error.list().len(), 1_000);
    for text in [error.to_string(), error.render(false)] {
        assert_eq!(text.matches("unknown key").count(), 50);
        assert!(
            text.ends_with("and 950 more: correct these 50 first"),
            "{text}"
        );
    }
    // Each line is a syntax error.
    let started = std::time::Instant::now();
    let broken = "= = =\n".repeat(5_000);
    let error = Config::parse("it.toml", &broken).expect_err("no TOML");
    assert!(error.list().len() > 1_000);
    assert!(started.elapsed() < std::time::Duration::from_secs(30));
}
