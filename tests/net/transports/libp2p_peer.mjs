// A js-libp2p peer that sends every frame back over a stream of its own.
if (!Promise.withResolvers) { // Node 20
  Promise.withResolvers = () => { let resolve, reject; const promise = new Promise((a, b) => { resolve = a; reject = b }); return { promise, resolve, reject } }
}
const { createLibp2p } = await import('libp2p')
const { tcp } = await import('@libp2p/tcp')
const { noise } = await import('@chainsafe/libp2p-noise')
const { yamux } = await import('@chainsafe/libp2p-yamux')
const { identify } = await import('@libp2p/identify')
const { generateKeyPairFromSeed } = await import('@libp2p/crypto/keys')
const PROTOCOL = '/hubless/1'
const privateKey = await generateKeyPairFromSeed('Ed25519', new Uint8Array(32).fill(7))
const node = await createLibp2p({
  privateKey, addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()], connectionEncrypters: [noise()], streamMuxers: [yamux()], services: { identify: identify() }
})
let held = new Uint8Array(0)
let back = null
await node.handle(PROTOCOL, async (stream, connection) => {
  for await (const chunk of stream) {
    const more = chunk.subarray()
    const joined = new Uint8Array(held.length + more.length)
    joined.set(held); joined.set(more, held.length); held = joined
    while (held.length >= 4) {
      const size = new DataView(held.buffer, held.byteOffset).getUint32(0)
      if (held.length < 4 + size) break
      const frame = held.slice(0, 4 + size)
      held = held.slice(4 + size)
      if (back === null) back = await connection.newStream(PROTOCOL)
      if (!back.send(frame)) await back.onDrain?.()
    }
  }
})
console.log(JSON.stringify({ key: Buffer.from(privateKey.publicKey.raw).toString('hex'), addresses: node.getMultiaddrs().map(String) }))
process.stdin.resume()
process.stdin.on('end', async () => { await node.stop(); process.exit(0) })
