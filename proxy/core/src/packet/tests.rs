//! Properties of the model itself. That the programs do the same is tested with them.

mod joining;
mod translation;
