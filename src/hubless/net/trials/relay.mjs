// A libp2p relay (circuit relay v2) of js-libp2p: HOST PORT. Says its addresses, then, whenever it has given a slot, to whom
// it has given any; ends with its standard input. Runs where node finds js-libp2p: `node --input-type=module --eval`.
if (!Promise.withResolvers) { // Node 20
  Promise.withResolvers = () => { let resolve, reject; const promise = new Promise((a, b) => { resolve = a; reject = b }); return { promise, resolve, reject } }
}
const { createLibp2p } = await import('libp2p')
const { tcp } = await import('@libp2p/tcp')
const { noise } = await import('@chainsafe/libp2p-noise')
const { yamux } = await import('@chainsafe/libp2p-yamux')
const { identify } = await import('@libp2p/identify')
const { circuitRelayServer } = await import('@libp2p/circuit-relay-v2')
const [host, port] = process.argv.slice(-2)
const at = `/ip4/${host}/tcp/${port}`
const node = await createLibp2p({
  addresses: { listen: [at], announce: port === '0' ? [] : [at] }, // a slot with no address of the relay is no use
  transports: [tcp()], connectionEncrypters: [noise()], streamMuxers: [yamux()],
  services: { identify: identify(), relay: circuitRelayServer() }
})
const say = (what) => console.log(JSON.stringify(what))
say(node.getMultiaddrs().map(String))
let given = 0
setInterval(() => {
  const slots = [...node.services.relay.reservations.keys()].map(String)
  if (slots.length > given) { given = slots.length; say(slots) }
}, 50)
process.stdin.resume()
process.stdin.on('end', async () => { await node.stop(); process.exit(0) })
