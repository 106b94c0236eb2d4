use crate::Failure;

/// What is wrong with what an object asks for, to be told in its status: a plan is made all the same.
///
/// `S` says which part of the object's work it stands in the way of, where a plugin tells such parts apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem<S = ()> {
    /// What cannot be done.
    pub about: S,
    /// A stable CamelCase word, as conditions have it.
    pub reason: String,
    /// Names the field and the fix.
    pub message: String,
    /// May get better by itself; else somebody has to change something.
    pub passes: bool,
}

impl Problem {
    /// Somebody has to change something.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { about: (), reason: reason.into(), message: message.into(), passes: false }
    }

    /// It is waited for.
    pub fn passing(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self { passes: true, ..Self::new(reason, message) }
    }

    /// With the part that it is about.
    #[must_use]
    pub fn about<S>(self, about: S) -> Problem<S> {
        Problem { about, reason: self.reason, message: self.message, passes: self.passes }
    }
}

/// Why a part of a plan is not made. Functions that look things up and find them wrong return it; both sides come from
/// `?`.
#[derive(Debug)]
pub enum Stop<S = ()> {
    /// For the host: a lookup that waits for its answer, or a fault of the plugin.
    Failure(Failure),
    /// For the status.
    Problem(Problem<S>),
}

impl<S> From<Failure> for Stop<S> {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl<S> From<Problem<S>> for Stop<S> {
    fn from(problem: Problem<S>) -> Self {
        Self::Problem(problem)
    }
}

impl<S> Stop<S> {
    /// The problem as a value; failures are passed on.
    ///
    /// # Errors
    /// The failure, if it is one.
    pub fn settle<T>(result: Result<T, Self>) -> Result<Result<T, Problem<S>>, Failure> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(Self::Problem(problem)) => Ok(Err(problem)),
            Err(Self::Failure(failure)) => Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(failure: Option<Failure>, problem: Option<Problem<u8>>) -> Result<(), Stop<u8>> {
        failure.map_or(Ok(()), Err)?;
        problem.map_or(Ok(()), Err)?;
        Ok(())
    }

    #[test]
    fn a_problem_becomes_a_value_and_a_failure_is_passed_on() {
        let problem = Problem::passing("Late", "spec.a: wait").about(3);
        assert_eq!(problem, Problem { about: 3, reason: "Late".into(), message: "spec.a: wait".into(), passes: true });
        assert_eq!(Stop::settle(part(None, Some(problem.clone()))).unwrap(), Err(problem));
        assert_eq!(Stop::settle(part(None, None)).unwrap(), Ok(()));
        assert!(Stop::settle(part(Some(Failure::PENDING), None)).unwrap_err().is_pending());
    }
}
