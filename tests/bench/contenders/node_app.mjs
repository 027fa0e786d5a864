// Node's own http server and undici.stream, its fastest way to read a reply; one write a read.
import http from 'node:http';
import { readFileSync } from 'node:fs';
import { Writable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { Pool } from 'undici';

const url = new URL(process.env.UPSTREAM);
const ca = readFileSync(process.env.SSL_CERT_FILE);
const pool = new Pool(url.origin, { connections: 4096, pipelining: 1, connect: { ca } });

function relay(res) {
  const decoder = new StringDecoder('utf8');
  let rest = '';
  return new Writable({
    write(data, _, done) {
      const events = (rest + decoder.write(data)).split('\n\n');
      rest = events.pop();
      let text = '';
      for (const event of events) {
        if (event === 'data: [DONE]' || !event.startsWith('data: ')) continue;
        const { choices, response } = JSON.parse(event.slice(6));
        text += (choices?.length ? choices[0].delta.content : response) ?? '';
      }
      if (text === '' || res.write(text)) done();
      else res.once('drain', done);
    },
    final(done) {
      res.end();
      done();
    },
  });
}

const server = http.createServer((req, res) => {
  const pieces = [];
  req.on('data', (piece) => pieces.push(piece));
  req.on('end', () => {
    const body = JSON.stringify({ messages: JSON.parse(Buffer.concat(pieces)), stream: true });
    const options = { path: url.pathname, method: 'POST', headers: { 'content-type': 'application/json' }, body };
    pool
      .stream(options, ({ statusCode }) => {
        res.writeHead(statusCode, { 'content-type': 'text/event-stream' });
        return relay(res);
      })
      .catch(() => res.destroy());
  });
});
server.keepAliveTimeout = 75000;
server.listen(0, '127.0.0.1', 1024, () => console.log(`http://127.0.0.1:${server.address().port}`));
