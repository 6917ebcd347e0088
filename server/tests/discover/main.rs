//! Discovery on real databases: labelled schemas, of which every relation is known, on PostgreSQL and SQLite.

mod adversarial;
mod lab;
mod labelled;
mod platform;
mod random;
mod schemas;
