//! A camera: `multipart/x-mixed-replace`, which browsers show as a moving picture. Each frame is sent
//! as soon as the reader gives it, and the camera stops when nobody looks any more.

use std::io::{self, Read};
use std::thread;
use std::time::Duration;

use http::{Request, Response, header};
use reverse_http::{Body, Device, Gateway};

const TYPE: &str = "multipart/x-mixed-replace; boundary=frame";

/// Gives frames without end.
struct Frames {
    number: usize,
    /// What is left of the frame in hand.
    bytes: io::Cursor<Vec<u8>>,
}

impl Read for Frames {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.bytes.position() == self.bytes.get_ref().len() as u64 {
            thread::sleep(Duration::from_millis(40)); // 25 pictures in a second
            let picture = format!("picture {}", self.number); // from the sensor, as a JPEG
            let fields = format!("Content-Type: text/plain\r\nContent-Length: {}", picture.len());
            let frame = format!("--frame\r\n{fields}\r\n\r\n{picture}\r\n");
            (self.number, self.bytes) = (self.number + 1, io::Cursor::new(frame.into_bytes()));
        }
        self.bytes.read(buf)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        println!("the camera stops after {} pictures", self.number);
    }
}

fn camera(_request: Request<Body>) -> Response<Body> {
    let mut response =
        Response::new(Body::from_reader(Frames { number: 0, bytes: io::Cursor::default() }));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(TYPE));
    response
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = Gateway::builder().listen("127.0.0.1:0").start()?;
    let url = format!("http://{}/door", gateway.devices_addr());
    let device = Device::builder(url).build()?.spawn(camera)?;
    let door = gateway.device("door");
    door.wait_connected(Duration::from_secs(5))?;

    // A program looks at some pictures. A browser would open http://gateway/door/ (listen_visitors).
    let mut stream = door.send(Request::get("/").body(Body::empty())?)?.into_body();
    let (mut seen, mut buf) = (String::new(), [0; 1000]);
    while !seen.contains("picture 4") {
        let n = stream.read(&mut buf)?;
        seen += std::str::from_utf8(&buf[..n])?;
    }
    println!("{} frames came", seen.matches("--frame").count());
    drop(stream); // closes the link, by which the camera learns of it
    device.drain(Duration::from_secs(5));
    Ok(())
}
