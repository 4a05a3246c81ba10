//! Accounts and their keys.

use std::sync::Arc;

use fanfare_model::AccountId;

use super::{Draft, Object, check_limit};
use crate::{
    Account, AccountView, ApiKey, ChangeError, ObjectKind, Shard,
    command::{KeyRecord, NewAccount},
    names,
};

/// Keys that one account may have.
const KEYS_MAX: u64 = 100;

impl Draft<'_> {
    pub(super) fn create_account(&mut self, new: NewAccount) -> Result<Object, ChangeError> {
        self.check_account(&new)?;
        Ok(Object::Account(self.put_account(new)))
    }

    pub(super) fn bootstrap(&mut self, new: NewAccount, key: KeyRecord) -> Result<Object, ChangeError> {
        if let Some(first) = self.view.accounts.values().next() {
            return Err(ChangeError::Exists { kind: ObjectKind::Account, name: first.account.name.clone() });
        }
        self.check_account(&new)?;
        self.check_key(&key)?;
        let account = self.put_account(new);
        self.put_key(account.id, key)?;
        Ok(Object::Account(account))
    }

    pub(super) fn create_key(&mut self, account: AccountId, key: KeyRecord) -> Result<Object, ChangeError> {
        let keys = self.account(account)?.keys.len();
        self.check_key(&key)?;
        check_limit(ObjectKind::ApiKey, keys, KEYS_MAX)?;
        self.put_key(account, key)
    }

    fn check_account(&self, new: &NewAccount) -> Result<(), ChangeError> {
        names::check_account_name("account.name", &new.name)?;
        if new.partitions == 0 {
            return Err(ChangeError::invalid("account", "needs a stream with at least one partition"));
        }
        let taken = |view: &Arc<AccountView>| view.account.name == new.name;
        if self.view.accounts.contains_key(&new.id) || self.view.accounts.values().any(taken) {
            return Err(ChangeError::Exists { kind: ObjectKind::Account, name: new.name.clone() });
        }
        Ok(())
    }

    fn check_key(&self, key: &KeyRecord) -> Result<(), ChangeError> {
        names::check_description("key.description", &key.description)?;
        if self.view.keys.contains_key(&key.id) {
            return Err(ChangeError::Exists { kind: ObjectKind::ApiKey, name: key.id.to_string() });
        }
        Ok(())
    }

    fn put_account(&mut self, new: NewAccount) -> Arc<Account> {
        self.changed = true;
        let turn = self.view.accounts.len() % usize::from(new.partitions);
        let partition = u16::try_from(turn).expect("a remainder of a u16 is a u16");
        let shard = Shard { epoch: 1, partitions: vec![partition] };
        let account = Account { id: new.id, name: new.name, shard, created: self.now };
        self.view.accounts.insert(account.id, Arc::new(AccountView::new(account.clone())));
        Arc::new(account)
    }

    fn put_key(&mut self, account: AccountId, key: KeyRecord) -> Result<Object, ChangeError> {
        let KeyRecord { id, description, secret_hash } = key;
        let key = Arc::new(ApiKey { id, account, description, secret_hash, created: self.now });
        self.edit(account)?.keys.insert(id, key);
        Arc::make_mut(&mut self.view.keys).insert(id, account);
        Ok(Object::Nothing)
    }
}
