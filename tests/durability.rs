//! What the ledger was told and answered stays, whatever becomes of its process, its database and its disk.

#[path = "durability/backups.rs"]
mod backups;
#[path = "durability/disk.rs"]
mod disk;
#[path = "durability/kills.rs"]
mod kills;
#[path = "durability/load.rs"]
mod load;
#[path = "durability/moves.rs"]
mod moves;
