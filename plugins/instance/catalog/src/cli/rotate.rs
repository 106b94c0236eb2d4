use clap::Args;

use super::{DatabaseArgs, KeyArgs};
use crate::database::store;

/// What to rotate.
#[derive(Args, Debug)]
pub struct RotateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

impl RotateArgs {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (database, keyring) = (self.database.database()?, self.keys.keyring()?);
        let client = database.get().await?;
        let rotated = store::rotate(&**client, &keyring).await?;
        println!("sealed {rotated} secrets under the key {}", keyring.current());
        Ok(())
    }
}
