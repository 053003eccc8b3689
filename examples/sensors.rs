//! A gateway asks twenty sensors at once and prints a table. Each has a deadline, so one that hangs
//! costs a line of the table and not the round; one that is not there says so at once.
#![allow(clippy::expect_used)] // a thread of an example that cannot go on ends it

use std::thread;
use std::time::Duration;

use http::Request;
use reverse_http::{Body, Device, DeviceHandle, ErrorKind, Gateway};

const SENSORS: usize = 20;
/// It takes longer than it may.
const SLOW: usize = 7;
/// It is not connected.
const ABSENT: usize = 13;

fn sensor(gateway: &Gateway, number: usize) -> Result<DeviceHandle, reverse_http::Error> {
    let url = format!("http://{}/sensor-{number}", gateway.devices_addr());
    Device::builder(url).build()?.spawn(move |_request| {
        if number == SLOW {
            thread::sleep(Duration::from_secs(2));
        }
        format!("{}.5", 15 + number)
    })
}

/// One reading, or why there is none.
fn read(gateway: &Gateway, number: usize) -> Result<String, reverse_http::Error> {
    // The deadline is for the whole exchange, the body included.
    let sensor = gateway.device(&format!("sensor-{number}")).timeout(Duration::from_secs(1));
    let request = Request::get("/temperature").body(Body::empty()).expect("a request");
    sensor.send(request)?.into_body().read_to_text(100)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let mut running = Vec::new();
    for number in (0..SENSORS).filter(|number| *number != ABSENT) {
        running.push(sensor(&gateway, number)?);
        gateway.device(&format!("sensor-{number}")).wait_connected(Duration::from_secs(5))?;
    }
    println!("{} sensors are connected", gateway.devices()?.len());

    let readings: Vec<_> = thread::scope(|scope| {
        let gateway = &gateway;
        let asked: Vec<_> =
            (0..SENSORS).map(|number| scope.spawn(move || read(gateway, number))).collect();
        asked.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    println!("{:>9}  reading", "sensor");
    for (number, reading) in readings.into_iter().enumerate() {
        let text = match reading {
            Ok(degrees) => format!("{degrees} °C"),
            Err(e) if e.kind() == ErrorKind::Unknown => "not here".to_owned(),
            Err(e) if e.is_timeout() => "too slow".to_owned(),
            Err(e) => e.to_string(),
        };
        println!("sensor-{number:<2}  {text}");
    }
    running.iter().for_each(DeviceHandle::stop);
    Ok(())
}
