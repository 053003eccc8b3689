//! How the gateway is verified, and the device's own certificate. A library without TLS (feature
//! `tls`) refuses each of these options.

use crate::outcome::Failure;

#[cfg(feature = "tls")]
mod settings {
    use std::time::SystemTime;

    use reverse_http::tls::{DeviceTls, Identity};

    use super::Failure;

    #[derive(Clone, Default)]
    pub(crate) struct Tls(pub(crate) DeviceTls);

    impl Tls {
        pub(crate) fn ca(self, pem: &str) -> Result<Self, Failure> {
            Ok(Tls(self.0.ca(pem)?))
        }

        pub(crate) fn pin(self, pin: &str) -> Result<Self, Failure> {
            Ok(Tls(self.0.pin(pin)?))
        }

        pub(crate) fn identity(self, certificates: &str, key: &str) -> Result<Self, Failure> {
            Ok(Tls(self.0.identity(Identity::from_pem(certificates, key)?)))
        }

        pub(crate) fn clock_floor(self, floor: SystemTime) -> Result<Self, Failure> {
            Ok(Tls(self.0.clock_floor(floor)))
        }
    }
}

#[cfg(not(feature = "tls"))]
mod settings {
    use std::time::SystemTime;

    use super::Failure;

    #[derive(Clone, Default)]
    pub(crate) struct Tls;

    impl Tls {
        pub(crate) fn ca(self, _: &str) -> Result<Self, Failure> {
            Err(absent())
        }

        pub(crate) fn pin(self, _: &str) -> Result<Self, Failure> {
            Err(absent())
        }

        pub(crate) fn identity(self, _: &str, _: &str) -> Result<Self, Failure> {
            Err(absent())
        }

        pub(crate) fn clock_floor(self, _: SystemTime) -> Result<Self, Failure> {
            Err(absent())
        }
    }

    fn absent() -> Failure {
        Failure::usage("this library was built without TLS (feature tls)")
    }
}

pub(crate) use settings::Tls;
