//! How messages name a setting: by the library's method, then by the option of the command. Each
//! name is written only here; a test compares both with the methods and options that exist.

pub(crate) const BEARER_TOKEN: &str = "DeviceBuilder::bearer_token, or --token-file and PTTH_TOKEN";
pub(crate) const PROXY_CREDENTIALS: &str = "DeviceBuilder::proxy_credentials, or instead of --proxy the environment, like http_proxy=http://USER:PASSWORD@HOST:PORT";
pub(crate) const REQUEST_FIELDS: &str = "DeviceBuilder::request_fields, or --set-field";
pub(crate) const REDIRECT_HOST: &str = "DeviceBuilder::redirect_host, or --redirect-hosts";
pub(crate) const ORIGIN: &str = "DeviceBuilder::origin, or --origin";
pub(crate) const DIALECT: &str = "DeviceBuilder::dialect, or --dialect";
pub(crate) const FALLBACK: &str = "DeviceBuilder::fallback, or --fallback";
pub(crate) const MAX_RETRIES: &str = "DeviceBuilder::max_retries, or --max-retries";
pub(crate) const LINKS: &str = "DeviceBuilder::links, or --links";
pub(crate) const POLLS: &str = "DeviceBuilder::polls, or --polls";

pub(crate) const CLOCK_FLOOR: &str = "DeviceTls::clock_floor, or --clock-floor";

pub(crate) const DEVICES: &str = "GatewayBuilder::listen, or --devices";
pub(crate) const CORS_ORIGIN: &str = "GatewayBuilder::cors_origin, or --cors-origin";
pub(crate) const DEVICES_ALLOW: &str = "GatewayBuilder::devices_allow, or --devices-allow";
pub(crate) const VISITORS_ALLOW: &str = "GatewayBuilder::visitors_allow, or --visitors-allow";
pub(crate) const TRUSTED_PROXIES: &str = "GatewayBuilder::trusted_proxies, or --trusted-proxies";
pub(crate) const DEVICES_PROXY_PROTOCOL: &str =
    "GatewayBuilder::devices_proxy_protocol, or --devices-proxy-protocol";
pub(crate) const VISITORS_PROXY_PROTOCOL: &str =
    "GatewayBuilder::visitors_proxy_protocol, or --visitors-proxy-protocol";
pub(crate) const DRAIN_TO: &str = "GatewayBuilder::drain_to, or --drain-to";
pub(crate) const VIA: &str = "GatewayBuilder::via, or --via";
pub(crate) const HEALTH_PATH: &str = "Routes::health_path, or --health-path";
pub(crate) const TOKENS: &str = "GatewayBuilder::tokens, or --tokens";
pub(crate) const ADVERTISE: &str = "Peers::advertise, or --advertise";
pub(crate) const CLAIM_TIME: &str = "RedisDirectory::claim_time, or --directory-claim-time";
pub(crate) const VISITOR_TOKENS: &str = "GatewayBuilder::visitor_tokens, or --visitor-tokens";

pub(crate) const PEER_SECRET: &str = "Peers::secrets, or the first line of --peer-secret";

#[cfg(feature = "redis")]
pub(crate) const DIRECTORY_USER: &str = "RedisDirectory::user, or --directory-user";
#[cfg(feature = "redis")]
pub(crate) const DIRECTORY_PASSWORD: &str = "RedisDirectory::password, or --directory-password";

#[cfg(feature = "tls")]
pub(crate) use of_tls::*;

#[cfg(feature = "tls")]
mod of_tls {
    pub(crate) const CA: &str = "DeviceTls::ca, or --ca";
    pub(crate) const PIN: &str = "DeviceTls::pin, or --pin";
    pub(crate) const IDENTITY: &str = "DeviceTls::identity, or --cert and --key";
    pub(crate) const LOCAL_CA: &str = "LocalTls::ca, or --to-ca";
    pub(crate) const LOCAL_PIN: &str = "LocalTls::pin, or --to-pin";
    pub(crate) const LOCAL_NAME: &str = "LocalTls::server_name, or --to-server-name";
    pub(crate) const PEERS_CA: &str = "DeviceTls::ca, or --peers-ca";
    pub(crate) const PEERS_IDENTITY: &str = "DeviceTls::identity, or --peers-cert and --peers-key";
    pub(crate) const PEERS_CLIENT_CA: &str = "GatewayTls::client_ca, or --peers-client-ca";
    pub(crate) const CLIENT_CA: &str = "GatewayTls::client_ca, or --devices-client-ca";
}
