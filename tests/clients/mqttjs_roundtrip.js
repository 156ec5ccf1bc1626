// Two MQTT.js clients through the broker; the plan comes as JSON on the command line.
// Exits 0 when every step happened, else says which one did not.
'use strict'

const assert = require('node:assert')
const fs = require('node:fs')
const mqtt = require('mqtt')

const plan = JSON.parse(process.argv[2])
const patienceMs = 15000
const prefix = plan.prefix

function within (what, promise) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${patienceMs} ms`)), patienceMs)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

async function connect (who, will) {
  const options = {
    clientId: who.id,
    protocolVersion: plan.version,
    clean: true,
    reconnectPeriod: 0,
    will
  }
  if (plan.version === 3) options.protocolId = 'MQIsdp'
  if (plan.ca) {
    options.ca = fs.readFileSync(plan.ca)
    options.cert = fs.readFileSync(who.certificate)
    options.key = fs.readFileSync(who.key)
  }
  const client = await within('connect', mqtt.connectAsync(plan.url, options))
  // Messages wait here until a step asks for them.
  const waiting = []
  let wake = () => {}
  client.on('message', (topic, payload, packet) => {
    waiting.push({ topic, payload: payload.toString(), packet })
    wake()
  })
  client.next = async (topic, payload, qos, retain) => {
    if (waiting.length === 0) {
      await within(`a message to ${topic}`, new Promise(resolve => { wake = resolve }))
    }
    const got = waiting.shift()
    assert.deepStrictEqual(
      [got.topic, got.payload, got.packet.qos, got.packet.retain],
      [topic, payload, qos, retain]
    )
    return got.packet
  }
  return client
}

async function main () {
  const reader = await connect(plan.clients[0])
  const granted = await within('subscribe', reader.subscribeAsync(`${prefix}/+/x`, { qos: 2 }))
  assert.strictEqual(granted[0].qos, 2)
  const writer = await connect(plan.clients[1], { topic: `${prefix}/will/x`, payload: Buffer.from('gone'), qos: 1, retain: false })

  for (const qos of [0, 1, 2]) {
    const topic = `${prefix}/qos${qos}/x`
    await within(`publish ${qos}`, writer.publishAsync(topic, `with ${qos}`, { qos }))
    await reader.next(topic, `with ${qos}`, qos, false)
  }

  const kept = `${prefix}/kept/x`
  await within('publish retained', writer.publishAsync(kept, 'kept', { qos: 1, retain: true }))
  await reader.next(kept, 'kept', 1, false)
  await within('unsubscribe', reader.unsubscribeAsync(`${prefix}/+/x`))
  await within('subscribe', reader.subscribeAsync(`${prefix}/+/x`, { qos: 2 }))
  await reader.next(kept, 'kept', 1, true)

  const large = 'x'.repeat(200000)
  await within('publish large', writer.publishAsync(`${prefix}/large/x`, large, { qos: 1 }))
  await reader.next(`${prefix}/large/x`, large, 1, false)

  if (plan.version === 5) {
    const properties = {
      contentType: 'text/plain',
      responseTopic: 'answers',
      correlationData: Buffer.from([0, 1]),
      userProperties: { a: ['2', '3'], b: '1' }
    }
    await within('publish', writer.publishAsync(`${prefix}/rich/x`, 'rich', { qos: 1, properties }))
    const got = (await reader.next(`${prefix}/rich/x`, 'rich', 1, false)).properties
    assert.strictEqual(got.contentType, 'text/plain')
    assert.strictEqual(got.responseTopic, 'answers')
    assert.deepStrictEqual([...got.correlationData], [0, 1])
    assert.deepStrictEqual({ ...got.userProperties }, properties.userProperties)
  }

  // A network that fails: the will comes.
  writer.on('error', () => {})
  writer.stream.destroy()
  await reader.next(`${prefix}/will/x`, 'gone', 1, false)
  await within('disconnect', reader.endAsync())
}

main().then(() => process.exit(0), error => {
  console.error(error)
  process.exit(1)
})
