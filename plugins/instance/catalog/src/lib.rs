//! The catalog: keeps instances and template versions in PostgreSQL, serves them by HTTP, and mirrors them to the cluster
//! as custom resources and their status back. It is no part of the host, and the host knows nothing of it.
//!
//! * [`api`]: requests, each in one transaction.
//! * [`database`]: connections, migrations, rows.
//! * [`seal`]: secrets at rest.
//! * [`auth`]: who asks.
//! * [`mirror`]: rows to objects, status to rows.

pub mod api;
pub mod auth;
pub mod cli;
pub mod database;
pub mod metrics;
pub mod mirror;
pub mod seal;
pub mod telemetry;
