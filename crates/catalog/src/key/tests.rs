use std::{collections::BTreeMap, sync::Arc};

use fanfare_environment::Environment;
use fanfare_model::Timestamp;

use super::*;
use crate::{Account, AccountView, ApiKey, Shard};

fn new_key() -> NewKey {
    NewKey::generate(&**Environment::system().random())
}

fn view_with(keys: &[(AccountId, KeyId, [u8; 32])]) -> View {
    let mut accounts: BTreeMap<AccountId, AccountView> = BTreeMap::new();
    for &(id, key, secret_hash) in keys {
        let shard = Shard { epoch: 1, partitions: vec![0] };
        let account = Account { id, name: id.to_string(), shard, created: Timestamp(0) };
        let view = accounts.entry(id).or_insert_with(|| AccountView::new(account));
        let description = String::new();
        let key = ApiKey { id: key, account: id, description, secret_hash, created: Timestamp(0) };
        view.keys.insert(key.id, Arc::new(key));
    }
    View::of(1, Arc::default(), accounts.into_iter().map(|(id, view)| (id, Arc::new(view))).collect())
}

#[test]
fn a_key_proves_its_own_account_and_no_other() {
    let (one, other) = (AccountId::from_bytes([1; 16]), AccountId::from_bytes([2; 16]));
    let (key, other_key) = (new_key(), new_key());
    let view = view_with(&[(one, key.id, key.secret_hash), (other, other_key.id, other_key.secret_hash)]);
    let tenant = authenticate(&view, key.text.expose()).unwrap();
    assert_eq!((tenant.account(), tenant.key()), (one, key.id));
    assert_eq!(authenticate(&view, other_key.text.expose()).unwrap().account(), other);
}

#[test]
fn only_the_exact_key_authenticates() {
    let account = AccountId::from_bytes([1; 16]);
    let (key, stranger) = (new_key(), new_key());
    let keys = [(account, key.id, key.secret_hash), (account, stranger.id, stranger.secret_hash)];
    let view = view_with(&keys);
    let text = key.text.expose();
    assert_eq!(text.len(), "fanfare_sk_".len() + 32 + 1 + 64);
    assert!(authenticate(&view, text).is_some());

    let (id, secret) = text.strip_prefix("fanfare_sk_").unwrap().split_once('_').unwrap();
    let (_, foreign) = stranger.text.expose().rsplit_once('_').unwrap();
    let mut wrong = vec![
        String::new(),
        "fanfare_sk_".to_owned(),
        format!(" {text}"),
        format!("{text} "),
        format!("{text}0"),
        text[..text.len() - 1].to_owned(),
        format!("Fanfare_sk_{id}_{secret}"),
        format!("fanfare_sk_{id}{secret}"),
        format!("fanfare_sk_{id}_{foreign}"),
        format!("fanfare_sk_{}_{secret}", "0".repeat(32)),
        format!("fanfare_sk_{id}_{}", hex::text(&key.secret_hash)),
        "ü".repeat(64),
    ];
    for at in 0..secret.len() {
        let mut flipped = secret.as_bytes().to_vec();
        flipped[at] = if flipped[at] == b'0' { b'1' } else { b'0' };
        wrong.push(format!("fanfare_sk_{id}_{}", String::from_utf8(flipped).unwrap()));
    }
    for text in wrong {
        assert_eq!(authenticate(&view, &text), None, "{text} was taken");
    }
}

#[test]
fn a_fresh_key_is_not_printed() {
    let key = new_key();
    let secret = key.text.expose().rsplit_once('_').unwrap().1.to_owned();
    assert!(!format!("{key:?}").contains(&secret));
}
