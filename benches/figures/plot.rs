//! Lines of JSON into a picture.
use crate::Outcome;
pub(crate) const ARGUMENT: &str = "--plot";
pub(crate) fn run(_arguments: &[String]) -> Outcome<()> {
    Ok(())
}
