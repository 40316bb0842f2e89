//! Acknowledged writes survive any failure of the process, the database and the disk.

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
