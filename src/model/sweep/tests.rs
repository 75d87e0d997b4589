//! What the sweep finds, and which values it is given.

#![allow(clippy::unwrap_used, reason = "tests")]

use base64::Engine as _;
use proptest::prelude::{any, proptest};
use proptest::sample::Index;

use super::*;

fn hits(values: &[&[u8]], text: &[u8]) -> Vec<Hit> {
    let mut found = Vec::new();
    Sweep::new(values.iter().copied()).find(text, &mut |hit| found.push(hit));
    found.sort();
    found
}

fn in_pieces(sweep: &Sweep, pieces: &[&[u8]]) -> Vec<Hit> {
    let mut found = Vec::new();
    let mut search = sweep.search();
    for piece in pieces {
        search.push(piece, &mut |hit| found.push(hit));
    }
    search.finish(&mut |hit| found.push(hit));
    found.sort();
    found
}

fn names(text: &str) -> Vec<(String, String)> {
    let values = collect(text.as_bytes());
    let searched = values.into_iter().filter(|v| v.is_searched);
    searched.map(|v| (v.name.clone(), String::from_utf8(v.expose().to_vec()).unwrap())).collect()
}

#[test]
fn a_short_or_common_value_is_known_by_its_name_and_not_searched_for() {
    let text = "PIN_TOKEN=1234\nDB_PASSWORD=changeme\nSMTP_PASSWORD=changeme\nMODEL=x\nA_PASSWORD=${B}\nB_KEY_FILE=/a/b\nC_SECRET=\n";
    let values = collect(text.as_bytes());
    let names: Vec<&str> = values.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["PIN_TOKEN", "DB_PASSWORD", "SMTP_PASSWORD"]);
    assert!(values.iter().all(|v| !v.is_searched && v.needle().is_empty() && !v.expose().is_empty()));
    assert!(Sweep::new(values.iter().map(Value::needle)).is_empty());
}

fn name_and_value(text: &str) -> (String, String) {
    let all = names(text);
    assert_eq!(all.len(), 1, "{text}: {all:?}");
    all[0].clone()
}

#[test]
fn a_value_is_found_in_every_form_and_place() {
    let value: &[u8] = b"q7+/\"\\x p\nZ&%9";
    let engines = [&base64::engine::general_purpose::STANDARD, &base64::engine::general_purpose::URL_SAFE];
    for before in 0..40 {
        let pad = "-".repeat(before);
        let found = |text: &[u8], form: Form| {
            let text = [pad.as_bytes(), text, b"\n"].concat();
            let forms: Vec<Form> = hits(&[value], &text).iter().map(|h| h.form).collect();
            assert_eq!(forms, [form], "{before} {form:?}");
        };
        found(value, Form::Plain);
        let once = serde_json::to_string(std::str::from_utf8(value).unwrap()).unwrap();
        found(once.as_bytes(), Form::Json);
        found(serde_json::to_string(&once).unwrap().as_bytes(), Form::Json);
        found(br#""q7+\/\"\\x p\nZ&%9""#, Form::Json);
        found(b"q7%2B%2F%22%5Cx%20p%0AZ%26%259", Form::Url);
        found(b"q7%2b%2f%22%5cx%20p%0aZ%26%259", Form::Url);
        found(b"q7%2B%2F%22%5Cx+p%0AZ%26%259", Form::Url);
        for engine in engines {
            let inside = [pad.as_bytes(), value, b"tail"].concat();
            let forms: Vec<Form> = hits(&[value], engine.encode(inside).as_bytes()).iter().map(|h| h.form).collect();
            assert_eq!(forms, [Form::Base64], "{before}");
        }
    }
    assert_eq!(hits(&[value], b"q7+/\"\\x p\nZ&%8q7+/"), []);
}

#[test]
fn a_hit_tells_which_value_where_and_not_what() {
    let values: [&[u8]; 4] = [b"alpha-value", b"short", b"beta-value-2", b"alpha-value"];
    let text = b"..beta-value-2..alpha-value..short..";
    let plain = |value, offset| Hit { value, form: Form::Plain, offset };
    assert_eq!(hits(&values, text), [plain(0, 16), plain(2, 2)]);
    let sweep = Sweep::new(values);
    let debug = format!("{sweep:?} {:?} {:?}", sweep.search(), hits(&values, text));
    assert!(!debug.contains("alpha") && !debug.contains("beta"), "{debug}");
    assert!(Sweep::new([&b"short"[..]]).is_empty());
    assert!(in_pieces(&Sweep::new([]), &[b"anything"]).is_empty());
}

#[test]
fn long_values_are_found_by_their_middle() {
    let value: Vec<u8> = (0..5000u32).flat_map(|n| n.to_string().into_bytes()).collect();
    let text = [b"before ", &value[..], b" after"].concat();
    assert_eq!(hits(&[&value], &text).len(), 1);
    let encoded = base64::engine::general_purpose::STANDARD.encode(&text);
    assert_eq!(hits(&[&value], encoded.as_bytes()).len(), 1);
}

proptest! {
    #[test]
    fn pieces_do_not_matter_and_nothing_is_missed(
        values in proptest::collection::vec("[a-d\"/]{8,14}", 1..6),
        glue in proptest::collection::vec("[a-d\"/]{0,9}", 6),
        gap in 0usize..12_000,
        cuts in proptest::collection::vec(any::<Index>(), 0..5),
    ) {
        let mut text = Vec::new();
        for (value, glue) in values.iter().zip(&glue) {
            text.extend_from_slice(glue.as_bytes());
            text.extend_from_slice(value.as_bytes());
            text.resize(text.len() + gap / 3, b'.');
        }
        let list: Vec<&[u8]> = values.iter().map(|v| v.as_bytes()).collect();
        let whole = hits(&list, &text);
        // As a plain search sees it.
        let mut expected = Vec::new();
        for (number, value) in list.iter().enumerate().filter(|(n, v)| list[..*n].iter().all(|w| w != *v)) {
            let at = |start: &usize| text[*start..].starts_with(value);
            expected.extend((0..text.len()).filter(at).map(|start| (number, start as u64)));
        }
        let plain: Vec<(usize, u64)> =
            whole.iter().filter(|h| h.form == Form::Plain).map(|h| (h.value, h.offset)).collect();
        // A form of one value can be another value; then the first of both is told.
        if whole.iter().all(|h| h.form == Form::Plain) {
            proptest::prop_assert_eq!(&plain, &expected);
        } else {
            proptest::prop_assert!(plain.iter().all(|hit| expected.contains(hit)));
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
        proptest::prop_assert_eq!(in_pieces(&Sweep::new(list.iter().copied()), &pieces), whole);
    }

    #[test]
    fn any_file_is_read_without_a_panic(content in proptest::collection::vec(any::<u8>(), 0..600), head in "[\\[{\"a=:\\\\' \n]{0,80}") {
        collect(&content);
        collect(head.as_bytes());
    }
}

#[test]
fn an_environment_file() {
    let text = "# settings\nOPENAI_API_KEY=sk-q7Zp3LxV9tKe2WmB\nexport DB_PASSWORD='Tr0ub4dor #3' # note\n\
                LOG_LEVEL=information\nMODEL=claude-sonnet-4-20250514\nDEBUG=true\nPORT=5432\nHOME_DIR=/home/agent/data2\n\
                API_URL=https://api.acme.io/v1\nDATABASE_URL=postgres://app:Zk81-vwq@db:5432/app\n# OLD_TOKEN=c8f1e07b2d9a4635\n\
                EMPTY_TOKEN=\nSECRET=changeme\nGH_TOKEN=${OTHER_TOKEN}\n";
    let expected = [
        ("OPENAI_API_KEY", "sk-q7Zp3LxV9tKe2WmB"),
        ("DB_PASSWORD", "Tr0ub4dor #3"),
        ("DATABASE_URL", "Zk81-vwq"),
        ("OLD_TOKEN", "c8f1e07b2d9a4635"),
    ];
    assert_eq!(names(text), expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
}

#[test]
fn json_and_its_relatives() {
    let text = r#"{
        // a comment with "quotes: and = signs"
        "version": "2024-11-22T03:35:13Z",
        "account": {"uuid": "0b8f4c1e-7d2a-4b6f-9a35-e1c07d2f8b64", "email": "ada.lovelace.1815@acme.io"},
        "oauth": {"access_token": "q7Zp3LxV9tKe2\u0057mB\"c8", "expires_at": 1999999999, "type": "bearer-token-2"},
        "tokens": [{"token": {"value": "Vh3kP0zXq8LrT5nWy2Jc"}}],
        unquoted_key: {"password": 'sunshine & rain'},
    }"#;
    let expected =
        [("access_token", "q7Zp3LxV9tKe2WmB\"c8"), ("value", "Vh3kP0zXq8LrT5nWy2Jc"), ("password", "sunshine & rain")];
    assert_eq!(names(text), expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    assert_eq!(name_and_value("[1, {\"api_key\": \"c8f1e07b2d9a4635\"}]").1, "c8f1e07b2d9a4635");
}

#[test]
fn other_formats() {
    let random = "q7Zp3LxV9tKe2WmB";
    for (text, name) in [
        ("github.com:\n    user: ada\n    oauth_token: VALUE\n", "oauth_token"),
        ("[default]\naws_secret_access_key = VALUE\nregion = eu-central-1\n", "aws_secret_access_key"),
        ("[section]\nauth = { user = \"ada\", token = \"VALUE\" }\n", "token"),
        ("machine api.acme.io login ada password VALUE", "api.acme.io"),
        ("machine api.acme.io\n  login ada\n  password VALUE\n", "api.acme.io"),
        ("//registry.npmjs.org/:_authToken=VALUE\n", "_authToken"),
        ("db.acme.io:5432:*:ada:VALUE\n", "password"),
        ("<settings>\n  <password>VALUE</password>\n</settings>\n", "password"),
        ("https://ada:VALUE@git.acme.io\n", ""),
        ("VALUE\n", ""),
        ("secrets:\n  - VALUE\n", ""),
        ("headers:\n  Authorization: \"Bearer VALUE\"\n", "Authorization"),
    ] {
        assert_eq!(name_and_value(&text.replace("VALUE", random)), (name.to_owned(), random.to_owned()), "{text}");
    }
}

#[test]
fn a_private_key_is_known_by_its_last_full_line() {
    let begin = ["-----BEGIN OPENSSH ", "PRIVATE KEY-----"].concat();
    let (first, last) = ("b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW", "Q".repeat(69));
    let text = format!("{begin}\n{first}\n{last}\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n");
    assert_eq!(name_and_value(&text), ("PRIVATE KEY".to_owned(), last.clone()));
    let json = serde_json::json!({ "private_key": text }).to_string();
    assert_eq!(name_and_value(&json), ("private_key".to_owned(), last));
    assert!(!format!("{:?}", collect(json.as_bytes())).contains("private"));
}

#[test]
fn what_would_be_found_everywhere_is_left_out() {
    for text in [
        "PASSWORD=password",
        "PASSWORD=sunshine",
        "TOKEN=none-configured",
        "TOKEN_TYPE=q7Zp3LxV9tKe2WmB",
        "session_id: c8f1e07b2d9a4635e1f0a7b8c8f1e07b",
        "user: 0b8f4c1e-7d2a-4b6f-9a35-e1c07d2f8b64",
        "SSH_KEY=/home/ada/.ssh/id_ed25519",
        "API_KEY=op://Private/acme/key1",
        "password: $2b$12$abcdefghijklmnopqrstuv",
        "EMAIL=ada.lovelace@acme.io",
        "API_KEY=12345678901234567890",
        "ENDPOINT=https://api.acme.io/v1/token2",
        "AUTH=oauth-personal",
        "",
    ] {
        assert_eq!(names(text), [], "{text}");
    }
}
