// What the published Node SDK does, one function for each scenario: `scenarios.js CONFIG SCENARIO`.
//
// Knows: azure-iot-device and azure-iot-device-mqtt as they are published, unmodified, and the control port of the test
// IoT Hub. CONFIG is JSON, as for the Python scenarios. Always: every step has a deadline, and the process ends.
'use strict';

const assert = require('assert');
const fs = require('fs');
const http = require('http');

// The packages lie in the cache, not beside this file.
const load = (name) => require(require.resolve(name, { paths: [process.env.MILLRACE_NODE_MODULES] }));
const { Client, ModuleClient, Message } = load('azure-iot-device');
const { Mqtt, MqttWs } = load('azure-iot-device-mqtt');

const config = JSON.parse(process.argv[2]);
const ca = fs.readFileSync(config.ca, 'utf8');
const PATIENCE = 20000;
const ODD = { level: 'high', 'with space': 'a b', signs: '&=%+/?#$;,:@', 'ümläut': 'ß€', "quote'(*)!~": "'(*)!~" };

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(what, ask) {
  const deadline = Date.now() + PATIENCE;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`waited ${PATIENCE} ms in vain for: ${what}`);
    await pause(20);
  }
}

function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${PATIENCE} ms in vain for: ${what}`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// --- the cloud's side

function ask(method, path, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(config.control + path, { method, headers: { 'Content-Type': 'application/json' } }, (response) => {
      let text = '';
      response.on('data', (chunk) => { text += chunk; });
      response.on('end', () => {
        let answer = text;
        try { answer = JSON.parse(text); } catch { /* a sentence */ }
        resolve({ status: response.statusCode, answer });
      });
    });
    request.on('error', reject);
    request.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

async function tell(method, path, body) {
  const { status, answer } = await ask(method, path, body);
  assert.strictEqual(status, 200, `${method} ${path}: ${status} ${JSON.stringify(answer)}`);
  return answer;
}

const which = (id) => `id=${encodeURIComponent(id)}`;

function arrived(id, count) {
  return until(`${count} messages of ${id}`, async () => {
    const found = await tell('GET', `/telemetry?${which(id)}`);
    return found.length >= count ? found : null;
  });
}

const connectedTimes = async (id) => (await tell('GET', `/events?${which(id)}`)).filter((it) => it.kind === 'connected').length;

function call(id, methodName, payload, times = {}) {
  return ask('POST', '/method', { id, methodName, payload, responseTimeoutInSeconds: 10, connectTimeoutInSeconds: 10, ...times });
}

// --- clients

function connectionString() {
  const gateway = config.gateway ? `;GatewayHostName=${config.gateway}` : '';
  return `HostName=${config.hub};DeviceId=${config.device.id};SharedAccessKey=${config.device.key}${gateway}`;
}

async function watched(client, options = {}) {
  client.on('error', (error) => console.log(`in the background: ${error}`));
  await client.setOptions({ ca, ...options });
  return client;
}

const device = (options, transport = Mqtt) => watched(Client.fromConnectionString(connectionString(), transport), options);

async function module_() {
  Object.assign(process.env, config.module.environment);
  const client = await within('the environment', ModuleClient.fromEnvironment(Mqtt));
  client.on('error', (error) => console.log(`in the background: ${error}`));
  return client;
}

function message(text, system = {}) {
  const made = Object.assign(new Message(text), system);
  for (const [name, value] of Object.entries(ODD)) made.properties.add(name, value);
  return made;
}

function checkOdd(properties) {
  const got = Object.fromEntries(Object.keys(ODD).map((name) => [name, properties[name]]));
  assert.deepStrictEqual(got, ODD);
}

const send = (client, made) => within('an acknowledgement', client.sendEvent(made));

// --- scenarios

const scenarios = {
  async telemetry_with_properties() {
    const client = await device({ modelId: 'dtmi:com:example:press;1' });
    await within('a connection', client.open());
    for (let number = 0; number < 5; number += 1) {
      await send(client, message(`{"n":${number}}`, {
        messageId: `m${number}`, correlationId: 'c/1', contentType: 'application/json', contentEncoding: 'utf-8',
      }));
    }
    await client.close();
    const found = await arrived(config.device.id, 5);
    assert.deepStrictEqual(found.map((it) => it.body), [0, 1, 2, 3, 4].map((it) => `{"n":${it}}`));
    found.forEach((it, number) => {
      assert.strictEqual(it.system['$.mid'], `m${number}`);
      assert.strictEqual(it.system['$.cid'], 'c/1');
      assert.strictEqual(it.system['$.ct'], 'application/json');
      assert.strictEqual(it.system['$.ce'], 'utf-8');
      checkOdd(it.properties);
    });
  },

  async telemetry_over_websocket() {
    const client = await device({}, MqttWs);
    await within('a connection', client.open());
    await send(client, message('over 443'));
    await client.close();
    assert.strictEqual((await arrived(config.device.id, 1))[0].body, 'over 443');
  },

  async a_certificate_instead_of_a_key() {
    const { id, cert, key } = config.certified;
    const gateway = config.gateway ? `;GatewayHostName=${config.gateway}` : '';
    const client = Client.fromConnectionString(`HostName=${config.hub};DeviceId=${id};x509=true${gateway}`, Mqtt);
    await watched(client, { cert: fs.readFileSync(cert, 'utf8'), key: fs.readFileSync(key, 'utf8') });
    await within('a connection', client.open());
    await send(client, message('certified'));
    await client.close();
    assert.strictEqual((await arrived(id, 1))[0].body, 'certified');
  },

  async messages_from_the_cloud() {
    const client = await device();
    const got = [];
    client.on('message', (it) => { got.push(it); client.complete(it, () => {}); });
    await within('a connection', client.open());
    for (let number = 0; number < 3; number += 1) {
      await tell('POST', '/c2d', {
        id: config.device.id, messageId: `c2d-${number}`, body: `order ${number}`, ack: 'full',
        properties: { prop: 'a b&c' }, system: { '$.cid': 'corr' },
      });
    }
    await until('three messages', () => got.length >= 3);
    got.slice(0, 3).forEach((it, number) => {
      assert.strictEqual(it.data.toString(), `order ${number}`);
      assert.strictEqual(it.messageId, `c2d-${number}`);
      assert.strictEqual(it.correlationId, 'corr');
      assert.strictEqual(it.properties.getValue('prop'), 'a b&c');
    });
    await until('feedback', async () => (await tell('GET', '/feedback')).filter((it) => it.deviceId === config.device.id).length >= 3);
    await client.close();
  },

  async twins() {
    const id = config.device.id;
    await tell('PATCH', `/twin?${which(id)}`, { rate: 5 });
    const client = await device();
    await within('a connection', client.open());
    const twin = await within('the twin', client.getTwin());
    assert.strictEqual(twin.properties.desired.rate, 5);
    const patches = [];
    twin.on('properties.desired', (patch) => patches.push(patch));
    await within('an update', new Promise((resolve, reject) => {
      twin.properties.reported.update({ fw: '1.2', old: null }, (error) => (error ? reject(error) : resolve()));
    }));
    await until('the reported properties', async () => (await tell('GET', `/twin?${which(id)}`)).reported.fw === '1.2');
    await until('the subscription', async () => config.gateway
      || (await tell('GET', '/connections')).some((it) => it.id === id && it.filters.some((filter) => filter.includes('/desired/'))));
    const { version } = await tell('PATCH', `/twin?${which(id)}`, { rate: 7 });
    await until('the patch', () => patches.some((it) => it.rate === 7 && it.$version === version));
    await client.close();
  },

  async methods() {
    const id = config.device.id;
    const client = await device();
    client.onDeviceMethod('echo', (request, response) => response.send(200, { got: request.payload }, () => {}));
    await within('a connection', client.open());
    const { status, answer } = await call(id, 'echo', { delay: 1, text: 'ß' });
    assert.strictEqual(status, 200, JSON.stringify(answer));
    assert.deepStrictEqual(answer, { status: 200, payload: { got: { delay: 1, text: 'ß' } } });
    await client.close();
  },

  async a_module_in_its_environment() {
    const id = config.module.id;
    const client = await module_();
    await within('a connection', client.open());
    await send(client, message('plain', { messageId: 'p1' }));
    await within('an acknowledgement', client.sendOutputEvent('alert', message('from an output', { messageId: 'o1' })));
    await client.close();
    const found = Object.fromEntries((await arrived(id, 2)).map((it) => [it.body, it]));
    checkOdd(found.plain.properties);
    checkOdd(found['from an output'].properties);
    assert.strictEqual(found['from an output'].system['$.mid'], 'o1');
    if (!config.gateway) assert.strictEqual(found['from an output'].system['$.on'], 'alert');
  },

  async inputs() {
    const id = config.module.id;
    const client = await module_();
    const got = [];
    client.on('inputMessage', (input, it) => { got.push([input, it]); client.complete(it, () => {}); });
    await within('a connection', client.open());
    if (config.gateway) {
      const sender = await device();
      await within('a connection', sender.open());
      await send(sender, message('to an input', { messageId: 'i1' }));
      await sender.close();
    } else {
      const order = { id, input: 'in1', messageId: 'i1', body: 'to an input', properties: ODD };
      await until('the input', async () => (await tell('POST', '/input', order)).sent);
    }
    await until('the message', () => got.length > 0);
    const [input, it] = got[0];
    assert.strictEqual(input, 'in1');
    assert.strictEqual(it.data.toString(), 'to an input');
    assert.strictEqual(it.messageId, 'i1');
    for (const [name, value] of Object.entries(ODD)) assert.strictEqual(it.properties.getValue(name), value, name);
    await client.close();
  },

  async a_module_calls_a_method() {
    const target = await device();
    target.onDeviceMethod('blink', (request, response) => response.send(201, { heard: request.payload }, () => {}));
    await within('a connection', target.open());
    const caller = await module_();
    await within('a connection', caller.open());
    const parameters = { methodName: 'blink', payload: { times: 3 }, responseTimeoutInSeconds: 10, connectTimeoutInSeconds: 10 };
    const result = await within('the answer', caller.invokeMethod(config.device.id, parameters));
    assert.strictEqual(result.status, 201);
    assert.deepStrictEqual(result.payload, { heard: { times: 3 } });
    await caller.close();
    await target.close();
  },

  async a_client_comes_back() {
    const id = config.device.id;
    const client = await device();
    await within('a connection', client.open());
    await send(client, message('before'));
    if (config.gateway) {
      fs.writeFileSync(config.kick, '');
      await until('the cut of all connections', () => !fs.existsSync(config.kick));
    } else {
      await tell('POST', '/disconnect', { id, reset: true });
    }
    await send(client, message('after'));
    const bodies = (await arrived(id, 2)).map((it) => it.body);
    assert.strictEqual(bodies[0], 'before');
    assert(bodies.includes('after'), bodies.join());
    await client.close();
  },

  // The gateway has started without the cloud: it knows its clients, and the twin as it was, from the run before.
  async offline_start() {
    const id = config.device.id;
    const client = await device();
    await within('a connection', client.open());
    const twin = await within('the twin', client.getTwin());
    assert.strictEqual(twin.properties.desired.rate, 5);
    const patches = [];
    twin.on('properties.desired', (patch) => patches.push(patch));
    await within('an update', new Promise((resolve, reject) => {
      twin.properties.reported.update({ fw: '2.0' }, (error) => (error ? reject(error) : resolve()));
    }));
    for (let number = 0; number < 3; number += 1) await send(client, message(`offline ${number}`));
    assert.deepStrictEqual(await tell('GET', `/telemetry?${which(id)}`), []);
    await tell('PATCH', `/twin?${which(id)}`, { rate: 6 });
    await tell('PATCH', '/hub', { offline: false });
    const found = await arrived(id, 3);
    assert.deepStrictEqual(found.map((it) => it.body), [0, 1, 2].map((number) => `offline ${number}`));
    found.forEach((it) => checkOdd(it.properties));
    await until('the report', async () => (await tell('GET', `/twin?${which(id)}`)).reported.fw === '2.0');
    await until('the patch', () => patches.some((it) => it.rate === 6));
    await client.close();
  },

  async a_token_is_renewed() {
    const id = config.device.id;
    // Valid for 6 s, renewed 3 s before the end.
    const client = await device({ tokenRenewal: { tokenValidTimeInSeconds: 6, tokenRenewalMarginInSeconds: 3 } });
    await within('a connection', client.open());
    await send(client, message('m0'));
    let sent = 1;
    const began = Date.now();
    while (Date.now() - began < 7000 || (!config.gateway && (await connectedTimes(id)) < 2)) {
      await send(client, message(`m${sent}`));
      sent += 1;
      assert(Date.now() - began < PATIENCE, 'no second connection');
      await pause(200);
    }
    const bodies = new Set((await arrived(id, sent)).map((it) => it.body));
    for (let number = 0; number < sent; number += 1) assert(bodies.has(`m${number}`), `m${number}`);
    await client.close();
  },
};

async function main() {
  await scenarios[process.argv[3]]();
  const violations = (await tell('GET', '/events')).filter((it) => it.kind === 'violation');
  assert.deepStrictEqual(violations, []);
}

// The SDK leaves timers behind: end, well or not.
main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
