// Writes through postgres.js (npm: postgres), whose folder NODE_PATH has to
// name. Arguments and output: see other_test.go.
const postgres = require('postgres')

const [name, , , hosts, database] = process.argv.slice(2)
const places = hosts.split(',').map(place => place.split(':'))

let ended = false
process.stdin.on('end', () => { ended = true }).resume()

async function main() {
  const sql = postgres({
    host: places.map(place => place[0]),
    port: places.map(place => Number(place[1])),
    database,
    user: 'clients_app',
    target_session_attrs: 'read-write',
    max: 2,
    onnotice: () => {},
  })
  for (let n = 1; !ended; n++) {
    try {
      const [row] = await sql`insert into ledger (client, n) values (${name}, ${n}) returning port`
      console.log('ack', n, row.port)
    } catch (error) {
      console.log(error.code === '25006' ? 'refused' : 'doubt', n, error.code || error.message)
    }
    await new Promise(resolve => setTimeout(resolve, 20))
  }
  await sql.end({ timeout: 5 })
}

main()
