// A client made with node's ssh2. See doc.go for its input and output.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const net = require('net');
const readline = require('readline');
const {once} = require('events');
const {Client} = require('ssh2');

function connect(host, port, key, known, sock) {
  const name = `[${host}]:${port}`;
  const keys = fs.readFileSync(known, 'utf8').split('\n').map((line) => line.split(' '));
  return new Promise((resolve, reject) => {
    const client = new Client();
    client.on('ready', () => resolve(client)).on('error', reject);
    client.connect({
      host, port, sock, username: 'bastion', privateKey: fs.readFileSync(key), readyTimeout: 300000,
      hostVerifier: (offered) => keys.some(([of, , base64]) => of === name && base64 === offered.toString('base64')),
    });
  });
}

function status(client) {
  return new Promise((resolve, reject) => client.exec('status', (error, channel) => {
    if (error) return reject(error);
    let text = '';
    channel.on('data', (data) => { text += data; }).on('close', () => resolve(text)).on('error', reject);
    channel.stderr.on('data', (data) => { text += data; });
  }));
}

function channelTo(client, host, port) {
  return new Promise((resolve, reject) => client.forwardOut('127.0.0.1', 0, host, Number(port),
    (error, channel) => error ? reject(error) : resolve(channel)));
}

// A server that forwards each connection, as the documentation of ssh2 shows.
async function forward(client, host, port) {
  const server = net.createServer({allowHalfOpen: true}, async (socket) => {
    const channel = await channelTo(client, host, port);
    socket.pipe(channel).pipe(socket);
  });
  await once(server.listen(0, '127.0.0.1'), 'listening');
  return server;
}

async function pipe(stream, path) {
  const received = crypto.createHash('sha256');
  let count = 0;
  const ended = new Promise((resolve, reject) => stream.on('end', resolve).on('error', reject)
    .on('data', (data) => { count += data.length; received.update(data); }));
  for await (const block of fs.createReadStream(path, {highWaterMark: 1 << 18})) {
    if (!stream.write(block)) await once(stream, 'drain');
  }
  stream.end();
  await ended;
  return `${count} ${received.digest('hex')}`;
}

async function run(op, host, port, key, known, ...args) {
  const client = await connect(host, port, key, known);
  try {
    switch (op) {
      case 'status':
        return await status(client);
      case 'jump': {
        const inner = await connect(...args, key, known, await channelTo(client, ...args));
        const text = await status(inner);
        inner.end();
        return text;
      }
      case 'forward': {
        const server = await forward(client, args[0], args[1]);
        const socket = net.connect({port: server.address().port, host: '127.0.0.1', allowHalfOpen: true});
        const text = await pipe(socket, args[2]);
        server.close();
        return text;
      }
    }
    return await pipe(await channelTo(client, args[0], args[1]), args[2]);
  } finally {
    client.end();
  }
}

(async () => {
  for await (const line of readline.createInterface({input: process.stdin})) {
    let result;
    try {
      result = 'ok ' + await run(...line.split(' '));
    } catch (error) {
      result = `error ${error.message}`;
    }
    console.log(result.replaceAll('\n', ' | '));
  }
})();
