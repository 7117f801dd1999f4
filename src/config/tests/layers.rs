//! Layers: overrides, origins, and the errors of several files.

use proptest::prelude::*;

use super::*;
use crate::net::Filtering;

fn document(layer: Layer, name: &str, text: &str) -> Document {
    Document {
        layer,
        name: name.to_owned(),
        text: format!("version = 1\n{text}"),
    }
}

fn main_and(drop_in: &str, main: &str) -> Vec<Document> {
    vec![
        document(Layer::Main, "it.toml", main),
        document(Layer::DropIn, "conf.d/10.toml", drop_in),
    ]
}

/// Returns the layer, file and line of an effective value.
fn origin(
    effective: &Effective,
    table: Option<&str>,
    key: &str,
) -> (Layer, Option<(String, usize)>) {
    let sections = effective.sections();
    let mut sections = sections.iter();
    let section = sections.find(|section| section.table.as_deref() == table);
    let mut values = section.expect("the table is there").values.iter();
    let origin = &values
        .find(|value| value.key == key)
        .expect("the key is there")
        .origin;
    let span = match origin {
        ValueOrigin::Default => None,
        ValueOrigin::Span(span) => Some((span.file().to_owned(), span.line_and_column().0)),
    };
    (origin.layer(), span)
}

#[test]
fn a_later_layer_overrides_single_keys() {
    let mut layers = main_and(
        "[nat]\nfiltering = 'endpoint-independent'\n",
        "include = []\n[nat]\nmapping_lifetime_seconds = 400\nfiltering = 'address-dependent'\n[tun]\nname = 'it0'\n",
    );
    layers.push(Document::setting("VOICELANE_TUN", "tun.name", "cli0"));
    let effective = Effective::read(layers).expect("valid");
    let config = effective.config();
    assert_eq!(config.nat().mapping_lifetime.as_secs(), 400);
    assert_eq!(config.nat().filtering, Filtering::EndpointIndependent);
    assert_eq!(config.tun().name.as_str(), "cli0");
    assert_eq!(config.services(), []);

    let at = |file: &str, line| Some((file.to_owned(), line));
    let nat = |key| origin(&effective, Some("nat"), key);
    assert_eq!(
        nat("mapping_lifetime_seconds"),
        (Layer::Main, at("it.toml", 4))
    );
    assert_eq!(nat("filtering"), (Layer::DropIn, at("conf.d/10.toml", 3)));
    assert_eq!(nat("inbound_refresh"), (Layer::Vendor, None));
    assert_eq!(
        origin(&effective, Some("tun"), "name"),
        (Layer::CommandLine, at("VOICELANE_TUN", 1))
    );
    assert_eq!(
        origin(&effective, None, "include"),
        (Layer::Main, at("it.toml", 2))
    );
    assert_eq!(origin(&effective, None, "enable"), (Layer::Vendor, None));
}

#[test]
fn a_list_replaces_the_list() {
    let layers = main_and("enable = []", "enable = ['talkdesk-signalling']");
    let config = Effective::read(layers).expect("valid").into_config();
    assert_eq!(config, Config::default());
}

#[test]
fn a_service_replaces_the_one_of_its_name_or_is_added() {
    let media = GOOD
        .replace("'lab'", "'talkdesk-media'")
        .replace("'EF'", "'AF41'");
    let config = Config::parse("it.toml", &format!("version = 1\n{media}")).expect("valid");
    let vendor = Config::default();
    assert_eq!(config.services().len(), vendor.services().len());
    let span = |config: &Config| {
        let mut services = config.services().iter();
        services.position(|service| service.name == "talkdesk-media")
    };
    assert_eq!(span(&config), span(&vendor));
    let replaced = &config.services()[span(&config).expect("it is there")];
    assert_eq!(
        (replaced.dscp.to_string().as_str(), replaced.prefixes.len()),
        ("AF41", 2)
    );

    let config = Effective::read(main_and(&GOOD.replace("'EF'", "'CS5'"), GOOD)).expect("valid");
    let [.., last] = config.config().services() else {
        panic!("services")
    };
    assert_eq!(
        (last.name.as_str(), last.dscp.to_string().as_str()),
        ("lab", "CS5")
    );
    assert_eq!(
        config.config().services().len(),
        vendor.services().len() + 1
    );
}

#[test]
fn errors_of_all_files_are_reported() {
    let mut layers = main_and(
        "[tun]\nname = 'fine0'\n[nat]\nfiltring = 'x'",
        "[tun]\nname = '..'\n[[service]]\nname = 'a'",
    );
    layers.push(Document::setting(
        "--uplink",
        "uplink.interface",
        "wlan0; reboot",
    ));
    let diagnostics = Effective::read(layers).expect_err("three files, three diagnostics and more");
    let found: Vec<_> = diagnostics
        .list()
        .iter()
        .map(|diagnostic| {
            (
                diagnostic.span.to_string(),
                diagnostic.key.as_str(),
                diagnostic.kind.name(),
            )
        })
        .collect();
    assert_eq!(
        found[0],
        ("it.toml:3:8".to_owned(), "tun.name", "interface-name")
    );
    assert!(found.contains(&(
        "conf.d/10.toml:5:1".to_owned(),
        "nat.filtring",
        "unknown-key"
    )));
    let (span, key, kind) = found.last().expect("found");
    assert_eq!(
        (span.as_str(), *key, *kind),
        ("--uplink:1:20", "uplink.interface", "interface-name")
    );
}

#[test]
fn a_contradiction_between_files_shows_both_positions() {
    let other = GOOD.replace("'lab'", "'lab2'").replace("'EF'", "'AF41'");
    let diagnostics =
        Effective::read(main_and(&other, GOOD)).expect_err("they contradict each other");
    let [diagnostic] = diagnostics.list() else {
        panic!("{diagnostics}")
    };
    assert_eq!(diagnostic.span.file(), "conf.d/10.toml");
    assert_eq!(diagnostic.related.as_ref().map(Span::file), Some("it.toml"));
    let drawn = diagnostics.render(false);
    assert!(
        drawn.contains("it.toml") && drawn.contains("conf.d/10.toml"),
        "{drawn}"
    );
}

#[test]
fn a_syntax_error_does_not_hide_the_errors_of_other_files() {
    let diagnostics = Effective::read(main_and(
        "[tun]\nname = '..'\nenable = ['nobody']",
        "[tun\n",
    ));
    let diagnostics = diagnostics.expect_err("both have diagnostics");
    let kinds: Vec<_> = diagnostics
        .list()
        .iter()
        .map(|diagnostic| diagnostic.kind.name())
        .collect();
    assert_eq!(kinds, ["syntax", "interface-name", "unknown-key"]);
}

#[test]
fn every_file_needs_a_version_and_the_command_line_does_not() {
    let bare = Document {
        layer: Layer::DropIn,
        name: "x.toml".to_owned(),
        text: String::new(),
    };
    let diagnostics = Effective::read(vec![bare]).expect_err("no version");
    assert_eq!(diagnostics.list()[0].kind.name(), "missing-key");
    let setting = Document::setting("--tun", "tun.name", "a0");
    assert!(Effective::read(vec![setting]).is_ok());
}

proptest! {
    /// A file has the same meaning if its parts are in different layers.
    #[test]
    fn a_split_file_has_the_same_meaning(split in proptest::collection::vec(any::<bool>(), 5)) {
        let pieces = [
            "[uplink]\ninterface = 'wlan0'\n",
            "[nat]\nmapping_lifetime_seconds = 400\n",
            "[route]\ntable = 40000\n",
            "[control]\ngroup = 'staff'\n",
            GOOD,
        ];
        let part = |taken: bool| -> String {
            let pieces = pieces.iter().zip(&split);
            pieces.filter(|(_, it)| **it == taken).map(|(piece, _)| *piece).collect()
        };
        let whole = Config::parse("it.toml", &format!("version = 1\n{}", pieces.concat()));
        let layered = Effective::read(main_and(&part(true), &part(false)));
        prop_assert_eq!(layered.map(Effective::into_config), whole);
    }
}
