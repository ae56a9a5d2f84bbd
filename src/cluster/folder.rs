//! The file of a data folder that says which order of several nodes it belongs to.
//!
//! Promises: the file is there before the folder has anything of the order. A folder without it is a single daemon's.

use crate::durable;
use crate::layout;
use crate::order::record::ClusterId;
use serde::{Deserialize, Serialize};
use std::io::{self, Write as _};
use std::path::Path;

/// Which order a folder belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FolderCluster {
    /// The order's id.
    pub cluster: ClusterId,
    /// Whether the data is not what the order says: most other nodes had another sum.
    pub diverged: bool,
}

/// The first record of an order, as somebody found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Founded {
    /// The order's id.
    pub cluster: ClusterId,
    /// Whether the order goes on from a single daemon's data: then a new node needs that first.
    pub with_data: bool,
}

#[derive(Serialize, Deserialize)]
struct Written {
    cluster: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    diverged: bool,
}

impl FolderCluster {
    /// Of a folder whose data is what the order says.
    pub fn of(cluster: ClusterId) -> Self {
        Self { cluster, diverged: false }
    }

    /// Which order this folder belongs to; none if it is a single daemon's, or is not there.
    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read_to_string(folder.join(layout::CLUSTER)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let written: Written = serde_json::from_str(&text).map_err(io::Error::other)?;
        let cluster = ClusterId::parse(&written.cluster).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{:?} is no id of an order", written.cluster))
        })?;
        Ok(Some(Self { cluster, diverged: written.diverged }))
    }

    /// Writes it into the folder; durable when it returns.
    pub fn write(self, folder: &Path) -> io::Result<()> {
        durable::private_folder(folder)?;
        let Self { cluster, diverged } = self;
        let mut text = serde_json::to_string(&Written { cluster: cluster.to_string(), diverged })?;
        text.push('\n');
        // One more stamp of the folder, for the failpoints, too.
        durable::replace(&folder.join(layout::CLUSTER), "format", |file| file.write_all(text.as_bytes()))
    }

    /// Takes the folder out of its order: from now on it is a single daemon's.
    pub fn remove(folder: &Path) -> io::Result<()> {
        match std::fs::remove_file(folder.join(layout::CLUSTER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => durable::sync_folder(folder),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_which_order_it_belongs_to() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(FolderCluster::read(folder.path()).unwrap(), None);
        let whole = FolderCluster::of(ClusterId([0xa7; 16]));
        for cluster in [whole, FolderCluster { diverged: true, ..whole }] {
            cluster.write(folder.path()).unwrap();
            assert_eq!(FolderCluster::read(folder.path()).unwrap(), Some(cluster));
        }
        std::fs::write(folder.path().join(layout::CLUSTER), "{\"cluster\":\"x\"}").unwrap();
        assert!(FolderCluster::read(folder.path()).is_err());
        FolderCluster::remove(folder.path()).unwrap();
        FolderCluster::remove(folder.path()).unwrap();
        assert_eq!(FolderCluster::read(folder.path()).unwrap(), None);
    }
}
