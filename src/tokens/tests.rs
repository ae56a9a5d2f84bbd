//! The file of the tokens and its changes, what counts as a token, and when one was last used.

use super::*;

const NOW: Millis = Millis(1_000_000);

fn demo() -> Option<ClientCode> {
    ClientCode::new("demo").ok()
}

fn read() -> WantedToken {
    WantedToken::of(demo(), Scope::Read)
}

#[test]
fn a_token_lets_in_from_its_making_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let (token, text) =
        Tokens::make(folder.path(), &WantedToken { lasts_ms: Some(10), ..read() }, NOW).unwrap();
    let verify = |text: &str, now: u64| {
        let tokens = Tokens::read(folder.path()).unwrap();
        tokens.verify(text, Millis(now)).map(|token| token.id.clone())
    };
    assert_eq!(verify(&text, NOW.0), Ok(token.id.clone()));
    assert_eq!(verify(&text, NOW.0 + 9), Ok(token.id.clone()));
    assert_eq!(verify(&text, NOW.0 + 10), Err(InvalidToken::Expired));
    let other = format!("{}{}", &text[..text.len() - 1], if text.ends_with('0') { '1' } else { '0' });
    for wrong in
        ["", "profiled", "profiled_", &text[..text.len() - 1], &format!("{text}0"), &other, &token.id]
    {
        assert_eq!(verify(wrong, NOW.0), Err(InvalidToken::Unknown), "{wrong}");
    }
    Tokens::revoke(folder.path(), &token.id, NOW).unwrap();
    assert_eq!(verify(&text, NOW.0), Err(InvalidToken::Revoked));
    assert!(
        Tokens::read(folder.path()).unwrap().are_asked_for(),
        "revoking the last token does not turn access control off"
    );
}

#[test]
fn the_file_holds_no_token_and_is_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    assert!(!Tokens::read(folder.path()).unwrap().are_asked_for());
    let (_, text) = Tokens::make(folder.path(), &WantedToken::of(None, Scope::Admin), NOW).unwrap();
    let path = folder.path().join(layout::TOKENS);
    let stored = fs::read_to_string(&path).unwrap();
    let secret = text.rsplit('_').next().unwrap();
    assert!(secret.len() == 64 && !stored.contains(secret), "{stored}");
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Revoking is kept, whoever says it first; of two tokens with one id the first one stays.
#[test]
fn what_was_changed_may_be_changed_again_and_is_in_use_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let in_use = TokensInUse::read(folder.path()).unwrap();
    let (token, text) = Tokens::fresh(&read(), NOW).unwrap();
    let add = TokenChange::Add(token.clone());
    let revoke = TokenChange::Revoke { id: token.id.clone(), at: NOW.plus(5) };
    assert_eq!(in_use.apply(&revoke).unwrap(), None, "it is not there yet");
    assert!(!folder.path().join(layout::TOKENS).exists());
    let ids = |tokens: &Tokens| tokens.all().iter().map(|it| it.id.clone()).collect::<Vec<_>>();
    for _ in 0..2 {
        assert_eq!(in_use.apply(&add).unwrap(), Some(token.clone()));
        assert_eq!(in_use.now().verify(&text, NOW).map(|it| it.id.clone()), Ok(token.id.clone()));
    }
    let other = Token { client: None, ..token.clone() };
    assert_eq!(in_use.apply(&TokenChange::Add(other)).unwrap(), Some(token.clone()));
    for change in [&revoke, &add, &TokenChange::Revoke { id: token.id.clone(), at: NOW.plus(9) }] {
        let now = in_use.apply(change).unwrap().unwrap();
        assert_eq!(now.revoked_at_ms, Some(NOW.0 + 5));
        assert_eq!(in_use.now().verify(&text, NOW), Err(InvalidToken::Revoked));
    }
    assert_eq!(ids(&in_use.now()), std::slice::from_ref(&token.id));
    assert_eq!(*in_use.now(), Tokens::read(folder.path()).unwrap());
    // A file that went away is not begun anew.
    fs::remove_file(folder.path().join(layout::TOKENS)).unwrap();
    assert!(matches!(in_use.apply(&add), Err(TokensError::Gone(_))));
    assert!(matches!(in_use.reload(), Err(TokensError::Gone(_))));
    assert!(in_use.now().are_asked_for());
}

/// What nodes compare must not change for a token that an earlier version made.
#[test]
fn a_token_without_a_name_is_stored_and_summed_as_before_and_one_with_a_name_keeps_it() {
    let plain = Token {
        id: "1f0c2b7a".into(),
        name: None,
        client: demo(),
        scope: Scope::Batch.into(),
        sha256: [0; 32],
        created_at_ms: 1,
        expires_at_ms: None,
        revoked_at_ms: None,
    };
    let named = Token { name: Some(TokenName::new("nightly CRM").unwrap()), ..plain.clone() };
    let other = Token { name: Some(TokenName::new("nightly CRN").unwrap()), ..plain.clone() };
    // As the version before computed it.
    assert_eq!(sum(std::slice::from_ref(&plain)), Some(2_444_511_328));
    let of = |token: &Token| TokenChange::Add(token.clone()).sum();
    assert_eq!(of(&plain), 1_849_679_471);
    assert!(of(&plain) != of(&named) && of(&named) != of(&other));
    let folder = tempfile::tempdir().unwrap();
    let in_use = TokensInUse::read(folder.path()).unwrap();
    for token in [&named, &Token { id: "2".into(), ..plain.clone() }] {
        in_use.apply(&TokenChange::Add(token.clone())).unwrap();
    }
    let text = fs::read_to_string(folder.path().join(layout::TOKENS)).unwrap();
    assert_eq!(text.matches("\"name\"").count(), 1, "{text}");
    let read = Tokens::read(folder.path()).unwrap();
    assert_eq!(read.all().first(), Some(&named));
    assert_eq!(read.all().get(1).map(|token| token.name.clone()), Some(None));
    fs::write(folder.path().join(layout::TOKENS), text.replace("nightly CRM", "a\\u0007b")).unwrap();
    let error = Tokens::read(folder.path()).unwrap_err().to_string();
    assert!(error.contains("character 2 is a control character"), "{error}");
}

#[test]
fn a_use_shows_at_once_and_after_a_save_to_whoever_opens_the_folder_next() {
    let folder = tempfile::tempdir().unwrap();
    let in_use = TokensInUse::read(folder.path()).unwrap();
    let (token, _) = Tokens::fresh(&read(), NOW).unwrap();
    in_use.apply(&TokenChange::Add(token.clone())).unwrap();
    assert_eq!(in_use.last_used(&token.id), None);
    in_use.note_use(&token.id, NOW);
    in_use.reload().unwrap();
    assert_eq!(in_use.last_used(&token.id), Some(NOW));
    assert_eq!(TokensInUse::read(folder.path()).unwrap().last_used(&token.id), None);
    in_use.save_uses().unwrap();
    assert_eq!(TokensInUse::read(folder.path()).unwrap().last_used(&token.id), Some(NOW));
    // Damage loses the time, and nothing else.
    fs::write(folder.path().join(layout::TOKEN_USES), "{").unwrap();
    let again = TokensInUse::read(folder.path()).unwrap();
    assert_eq!((again.now().all().len(), again.last_used(&token.id)), (1, None));
}

/// A call that reloads is told what is wrong, so nothing need change; whoever sends a signal is told nothing.
#[test]
fn an_unreadable_file_closes_the_door_only_where_nobody_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let in_use = TokensInUse::read(folder.path()).unwrap();
    fs::write(folder.path().join(layout::TOKENS), "{").unwrap();
    assert!(matches!(in_use.reload(), Err(TokensError::Unreadable { .. })));
    assert!(!in_use.now().are_asked_for());
    assert!(matches!(in_use.reload_or_close(), Err(TokensError::Unreadable { .. })));
    assert!(in_use.now().are_asked_for());
}

#[test]
fn a_folder_takes_in_the_tokens_of_another_and_keeps_its_own() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [here, there] = [folders[0].path(), folders[1].path()];
    let (both, _) = Tokens::make(there, &read(), NOW).unwrap();
    Tokens::read(there).unwrap().take_in(here).unwrap();
    let (own, _) = Tokens::make(here, &WantedToken::of(demo(), Scope::Batch), NOW).unwrap();
    let (theirs, _) = Tokens::make(there, &WantedToken::of(None, Scope::Admin), NOW).unwrap();
    Tokens::revoke(there, &both.id, NOW.plus(7)).unwrap();
    Tokens::revoke(here, &own.id, NOW.plus(8)).unwrap();
    Tokens::read(there).unwrap().take_in(here).unwrap();
    let tokens = Tokens::read(here).unwrap();
    let found: Vec<_> = tokens.all().iter().map(|it| (it.id.as_str(), it.revoked_at_ms)).collect();
    assert_eq!(found, [(&*both.id, Some(NOW.0 + 7)), (&*own.id, Some(NOW.0 + 8)), (&*theirs.id, None)]);
}

#[test]
fn whoever_waits_for_the_lock_waits_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let _held = locked(&folder.path().join(layout::TOKENS_LOCK)).unwrap();
    let refused = Tokens::make(folder.path(), &read(), NOW);
    assert!(matches!(refused, Err(TokensError::Locked(_))), "{refused:?}");
}

#[test]
fn tokens_made_at_once_are_all_there() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| Tokens::make(folder.path(), &WantedToken::of(demo(), Scope::Batch), NOW).unwrap());
        }
    });
    assert_eq!(Tokens::read(folder.path()).unwrap().all().len(), 8);
}

/// A changed letter once turned a token into another client's.
#[test]
fn a_file_with_a_changed_letter_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    Tokens::make(folder.path(), &read(), Millis(1)).unwrap();
    let path = folder.path().join(layout::TOKENS);
    let text = fs::read_to_string(&path).unwrap();
    for (letter, changed) in [("\"demo\"", "\"demp\""), ("\"read\"", "\"admin\""), ("null", "9")] {
        let changed = text.replacen(letter, changed, 1);
        assert_ne!(changed, text);
        fs::write(&path, changed).unwrap();
        let error = Tokens::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("do not match their checksum"), "{letter}: {error}");
    }
}

#[test]
fn a_file_that_is_not_understood_opens_no_door() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str, says: &str| {
        fs::write(folder.path().join(layout::TOKENS), text).unwrap();
        let error = Tokens::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(layout::TOKENS), "{text}: {error}");
    };
    check("", "EOF");
    check("{}", "version");
    check(r#"{"version":2,"tokens":[]}"#, "version 2");
    let token = |client: &str, scope: &str, sha256: &str| {
        format!(
            r#"{{"version":1,"tokens":[{{"id":"1","client":"{client}","scope":"{scope}","sha256":"{sha256}","createdAtMs":1,"expiresAtMs":null,"revokedAtMs":null}}]}}"#
        )
    };
    let sum = "0".repeat(64);
    check(&token("a b", "read", &sum), "not a client code");
    check(&token("a", "write", &sum), "\"write\" is not a scope");
    check(&token("a", "batch,write", &sum), "\"batch,write\" is not a scope");
    check(&token("a", "read", "00"), "64 hexadecimal digits");
    fs::write(folder.path().join(layout::TOKENS), token("*", "read", &sum)).unwrap();
    assert_eq!(Tokens::read(folder.path()).unwrap().all().len(), 1);
}

#[test]
fn scopes_cover_what_they_name_and_admin_all() {
    let check = |text: &str, may: [bool; 3], shown: &str| {
        let scopes: Scopes = text.parse().unwrap();
        assert_eq!(Scope::ALL.map(|asked| scopes.covers(asked)), may, "{text}");
        assert_eq!(scopes.to_string(), shown, "{text}");
        assert_eq!(shown.parse(), Ok(scopes), "{text}");
    };
    check("batch", [true, false, false], "batch");
    check("read", [false, true, false], "read");
    check("admin", [true; 3], "admin");
    check("batch,read", [true, true, false], "batch,read");
    check("read, batch", [true, true, false], "batch,read");
    check("batch,batch", [true, false, false], "batch");
    check("read,admin,batch", [true; 3], "admin");
    for wrong in ["", ",", "batch,", "write", "batch,write", "Batch", "batch read"] {
        assert!(wrong.parse::<Scopes>().is_err(), "{wrong:?}");
    }
}

#[test]
fn a_file_of_before_scopes_were_given_together_is_read_and_goes_on() {
    // The text that the version before wrote, with its checksum.
    const EARLIER: &str = r#"{"version":1,"tokens":[{"id":"1f0c2b7a","client":"demo","scope":"batch","sha256":"0000000000000000000000000000000000000000000000000000000000000000","createdAtMs":1,"expiresAtMs":null,"revokedAtMs":null}],"crc32c":2444511328}"#;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(layout::TOKENS), EARLIER).unwrap();
    let (_, text) =
        Tokens::make(folder.path(), &WantedToken::of(demo(), "read,batch".parse::<Scopes>().unwrap()), NOW)
            .unwrap();
    let tokens = Tokens::read(folder.path()).unwrap();
    assert_eq!(
        tokens.all().iter().map(|it| it.scope.to_string()).collect::<Vec<_>>(),
        ["batch", "batch,read"]
    );
    let both = tokens.verify(&text, NOW).unwrap().scope;
    assert_eq!(Scope::ALL.map(|asked| both.covers(asked)), [true, true, false]);
}
