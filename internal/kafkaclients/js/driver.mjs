// Drives kafkajs and @platformatic/kafka; ../doc.go has the arguments.
import assert from 'node:assert'
import kafkajs from 'kafkajs'
import LZ4 from '@2l/kafkajs-lz4'
import snappy from 'kafkajs-snappy'
import zstd from '@mongodb-js/zstd'
import * as platformatic from '@platformatic/kafka'

// kafkajs has gzip; the others are plugged in, as its documentation says.
kafkajs.CompressionCodecs[kafkajs.CompressionTypes.Snappy] = snappy
kafkajs.CompressionCodecs[kafkajs.CompressionTypes.LZ4] = new LZ4().codec
kafkajs.CompressionCodecs[kafkajs.CompressionTypes.ZSTD] = () => ({
  compress: encoder => zstd.compress(encoder.buffer),
  decompress: buffer => zstd.decompress(buffer)
})
const kafkajsCodecs = { none: 'None', gzip: 'GZIP', snappy: 'Snappy', lz4: 'LZ4', zstd: 'ZSTD' }

const say = (...words) => process.stdout.write(words.join(' ') + '\n')
const keyOf = n => (n % 2 ? null : `k${n % 7}`)
const text = b => (b === null || b === undefined ? '-' : b.toString())

const a = { codec: 'none', protocol: 'classic', from: 'earliest', commit: 'auto', count: '0', rate: '0' }
for (const arg of process.argv.slice(3)) {
  const i = arg.indexOf('=')
  a[arg.slice(0, i)] = arg.slice(i + 1)
}
a.count = Number(a.count)
const brokers = a.brokers.split(',')
const left = new Promise(resolve => process.stdin.on('end', resolve).on('error', resolve).resume())

// A member of a group stops at its count or when it is told to leave.
function member () {
  let n = 0, full
  const done = new Promise(resolve => { full = resolve })
  return {
    done: Promise.race([done, left]),
    wants: () => n < a.count,
    got: (partition, offset, key, value, header) => {
      n++
      say('record', partition, offset, text(key), text(value), text(header))
      if (n === a.count) full()
    }
  }
}

const js = {
  client: () => new kafkajs.Kafka({ brokers, logLevel: kafkajs.logLevel.ERROR, retry: { retries: 20 } }),
  async produce () {
    const p = this.client().producer({ idempotent: a.idempotent === 'true', maxInFlightRequests: 1 })
    await p.connect()
    const messages = []
    for (let n = 0; n < a.count; n++) messages.push({ key: keyOf(n), value: `v${n}`, headers: { n: String(n) } })
    await p.send({ topic: a.topic, messages, compression: kafkajs.CompressionTypes[kafkajsCodecs[a.codec]] })
    for (let n = 0; n < a.count; n++) say('acked', n)
    await p.disconnect()
  },
  async consume () {
    const k = this.client()
    const c = k.consumer({ groupId: `reader-${process.pid}-${Date.now()}` })
    await c.connect()
    await c.subscribe({ topic: a.topic, fromBeginning: true })
    const m = member()
    let offsets = []
    if (a.from !== 'earliest') {
      const adm = k.admin()
      await adm.connect()
      offsets = await adm.fetchTopicOffsetsByTimestamp(a.topic, Number(a.from))
      await adm.disconnect()
    }
    const from = new Map(offsets.map(o => [o.partition, BigInt(o.offset)]))
    await c.run({
      autoCommit: false,
      eachMessage: async ({ partition, message }) => {
        if (m.wants() && BigInt(message.offset) >= (from.get(partition) ?? 0n)) {
          m.got(partition, message.offset, message.key, message.value, message.headers.n)
        }
      }
    })
    for (const o of offsets) c.seek({ topic: a.topic, partition: o.partition, offset: o.offset })
    await m.done
    await c.disconnect()
  },
  async group () {
    const c = this.client().consumer({ groupId: a.group, heartbeatInterval: 300 })
    await c.connect()
    await c.subscribe({ topic: a.topic, fromBeginning: true })
    const m = member()
    const auto = a.commit === 'auto'
    await c.run({
      autoCommit: auto,
      autoCommitInterval: 100,
      eachBatchAutoResolve: false,
      eachBatch: async ({ batch, resolveOffset, heartbeat, commitOffsetsIfNecessary, isRunning, isStale }) => {
        for (const message of batch.messages) {
          if (!m.wants() || !isRunning() || isStale()) break
          m.got(batch.partition, message.offset, message.key, message.value, message.headers.n)
          resolveOffset(message.offset)
          if (auto) await commitOffsetsIfNecessary()
          else await c.commitOffsets([{ topic: a.topic, partition: batch.partition, offset: String(BigInt(message.offset) + 1n) }])
          await heartbeat()
        }
      }
    })
    await m.done
    await c.disconnect()
  },
  async admin () {
    const adm = this.client().admin()
    await adm.connect()
    const topic = a.topic
    assert(await adm.createTopics({ topics: [{ topic, numPartitions: 3, replicationFactor: 3, configEntries: [{ name: 'retention.ms', value: '3600000' }] }] }))
    assert((await adm.listTopics()).includes(topic))
    assert.equal((await adm.fetchTopicMetadata({ topics: [topic] })).topics[0].partitions.length, 3)
    const resources = [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: topic }]
    await adm.alterConfigs({ resources: [{ ...resources[0], configEntries: [{ name: 'retention.ms', value: '7200000' }] }] })
    const configs = await adm.describeConfigs({ resources })
    assert.equal(configs.resources[0].configEntries.find(c => c.configName === 'retention.ms').configValue, '7200000')
    await adm.listGroups()
    await adm.describeCluster()
    await adm.deleteTopics({ topics: [topic] })
    await adm.disconnect()
  }
}

const pt = {
  base: { clientId: 'driver', bootstrapBrokers: brokers },
  async produce () {
    const p = new platformatic.Producer({ ...this.base, serializers: platformatic.stringSerializers })
    const messages = []
    for (let n = 0; n < a.count; n++) messages.push({ topic: a.topic, key: keyOf(n) ?? undefined, value: `v${n}`, headers: { n: String(n) } })
    await p.send({ messages, acks: -1, compression: a.codec, idempotent: a.idempotent === 'true' })
    for (let n = 0; n < a.count; n++) say('acked', n)
    await p.close()
  },
  consumer (options) {
    return new platformatic.Consumer({ ...this.base, deserializers: platformatic.stringDeserializers, ...options })
  },
  async read (c, options, each) {
    const m = member()
    for (let again = true; again;) {
      const stream = await c.consume({ topics: [a.topic], maxWaitTime: 200, ...options })
      left.then(() => stream.close().catch(() => {}))
      again = await this.drain(stream, m, each)
    }
    await c.close(true)
  },
  // Several commits that meet a rebalance each join the group anew, which fails the
  // others, until one has no retries left and destroys the stream. An application
  // opens another, which goes on where the last commit was.
  async drain (stream, m, each) {
    try {
      for await (const message of stream) {
        if (m.wants()) {
          const header = [...message.headers.entries()].find(([k]) => k.toString() === 'n')
          m.got(message.partition, message.offset, message.key, message.value, header?.[1])
          await each(message)
        }
        if (!m.wants()) break
      }
      return false
    } catch (err) {
      if (!err.findBy?.('needsRejoin', true)) throw err
      return true
    }
  },
  async consume () {
    const c = this.consumer({ groupId: `reader-${process.pid}-${Date.now()}` })
    let options = { mode: 'earliest' }
    if (a.from !== 'earliest') {
      const found = await c.listOffsetsWithTimestamps({ topics: [a.topic], timestamp: BigInt(a.from) })
      const ends = await c.listOffsets({ topics: [a.topic] })
      const offsets = [...found.get(a.topic)].map(([partition, o]) => ({ topic: a.topic, partition, offset: o.offset < 0n ? ends.get(a.topic)[partition] : o.offset }))
      options = { mode: 'manual', offsets }
    }
    await this.read(c, { ...options, autocommit: false }, async () => {})
  },
  async group () {
    const c = this.consumer(a.protocol === 'consumer'
      ? { groupId: a.group, groupProtocol: 'consumer' }
      : { groupId: a.group, heartbeatInterval: 300 })
    const manual = a.commit === 'manual'
    await this.read(c, { mode: 'committed', fallbackMode: 'earliest', autocommit: !manual }, async m => { if (manual) await m.commit() })
  },
  async admin () {
    const adm = new platformatic.Admin(this.base)
    const topic = a.topic
    await adm.createTopics({ topics: [topic], partitions: 3, replicas: 3, configs: [{ name: 'retention.ms', value: '3600000' }] })
    assert((await adm.listTopics()).includes(topic))
    await adm.incrementalAlterConfigs({ resources: [{ resourceType: 2, resourceName: topic, configs: [{ name: 'retention.ms', configOperation: 0, value: '7200000' }] }] })
    const configs = await adm.describeConfigs({ resources: [{ resourceType: 2, resourceName: topic, configurationKeys: null }] })
    assert.equal(configs[0].configs.find(c => c.name === 'retention.ms').value, '7200000')
    await adm.listGroups()
    await adm.deleteTopics({ topics: [topic] })
    await adm.close()
  }
}

try {
  await { kafkajs: js, platformatic: pt }[a.client][process.argv[2]]()
  process.exit(0)
} catch (err) {
  console.error(err, JSON.stringify(err.errors ?? ''))
  process.exit(1)
}
