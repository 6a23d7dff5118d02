//! The packer from outside: what it decides, checked by code that shares nothing with it.

mod facts;
mod gangs;
mod generate;
mod model;
mod naive;
mod properties;
mod scan;
