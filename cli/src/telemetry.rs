//! Logs on stderr, and spans to an OTLP collector where the standard environment variables name one.
//!
//! `SHOAL_LOG` (or `RUST_LOG`) chooses what is logged. `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` or
//! `OTEL_EXPORTER_OTLP_ENDPOINT` switch the export of spans on, `OTEL_SDK_DISABLED=true` off; the other variables of
//! the OpenTelemetry SDK (sampler, headers, resource) hold as documented there.

use std::env;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

use crate::args::LogFormat;
use crate::failure::Failure;

/// Name of the service in traces, unless the environment gives another.
const SERVICE: &str = "shoal";

/// Logging and tracing of this process; to be [ended](Telemetry::end) before it exits.
pub(crate) struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts logging at `level`, and tracing where the environment asks for it. Inside a Tokio runtime, once.
    pub(crate) fn start(format: LogFormat, level: LevelFilter) -> Result<Self, Failure> {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let provider = if wanted(|name| env::var(name).ok()) { Some(provider()?) } else { None };
        let filter = ["SHOAL_LOG", "RUST_LOG"].into_iter().find_map(|name| env::var(name).ok());
        let filter = EnvFilter::builder().with_default_directive(level.into()).parse_lossy(filter.unwrap_or_default());
        let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        let lines = match format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().boxed(),
        };
        // Our own spans alone: those of the exporter's connection would export themselves for ever.
        let spans = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer(SERVICE))
                .with_filter(filter_fn(|metadata| metadata.target().starts_with("shoal")))
        });
        let registry = tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans);
        registry.try_init().map_err(|error| Failure::new(format!("start logging: {error}")))?;
        Ok(Self { provider })
    }

    /// Sends the spans that are left. Call it off the runtime's threads.
    pub(crate) fn end(self) {
        if let Some(error) = self.provider.and_then(|provider| provider.shutdown().err()) {
            tracing::warn!(%error, "some spans were not exported");
        }
    }
}

/// Whether the environment asks for spans to be exported.
fn wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    let given = |name| variable(name).is_some_and(|value| !value.trim().is_empty());
    let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.trim().eq_ignore_ascii_case("true"));
    let none = variable("OTEL_TRACES_EXPORTER").is_some_and(|value| value.trim() == "none");
    let named = given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") || given("OTEL_EXPORTER_OTLP_ENDPOINT");
    named && !disabled && !none
}

fn provider() -> Result<SdkTracerProvider, Failure> {
    let failed = |error| {
        Failure::new(format!("set up the export of traces: {error}"))
            .next("mend OTEL_EXPORTER_OTLP_ENDPOINT, or set OTEL_SDK_DISABLED=true")
    };
    let exporter = SpanExporter::builder().with_tonic().build().map_err(failed)?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build())
}

/// What the environment says of this process; its name is `shoal` where it says nothing.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&opentelemetry::Key::from_static_str("service.name")).map(|name| name.to_string());
    let process = KeyValue::new("process.pid", i64::from(std::process::id()));
    let builder = Resource::builder().with_attribute(process);
    match name {
        Some(name) if !name.starts_with("unknown_service") => builder.build(),
        _ => builder.with_service_name(SERVICE).build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_switches_the_export() {
        const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
        for (name, variables, want) in [
            ("nothing set", vec![], false),
            ("endpoint", vec![ENDPOINT], true),
            ("of traces", vec![("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a")], true),
            ("empty", vec![("OTEL_EXPORTER_OTLP_ENDPOINT", " ")], false),
            ("disabled", vec![ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")], false),
            ("not disabled", vec![ENDPOINT, ("OTEL_SDK_DISABLED", "false")], true),
            ("no exporter", vec![ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")], false),
        ] {
            let get = |wanted: &str| variables.iter().find(|(n, _)| *n == wanted).map(|(_, v)| (*v).to_owned());
            assert_eq!(wanted(get), want, "{name}");
        }
    }
}
