// Requests by KafkaJS, and one tombstone, whose key is the codec: SERVERS TOPIC CODEC COUNT URL.
const { Kafka, CompressionTypes, CompressionCodecs, logLevel } = require("kafkajs");

CompressionCodecs[CompressionTypes.Snappy] = require("kafkajs-snappy");
const codecs = { none: CompressionTypes.None, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy };

async function main([servers, topic, codec, count, url]) {
  const producer = new Kafka({ brokers: servers.split(","), logLevel: logLevel.ERROR }).producer();
  await producer.connect();
  const headers = { own: "ü", none: "" }; // null is a TypeError
  const messages = Array.from({ length: Number(count) }, (_, number) => ({
    key: String(number),
    value: JSON.stringify({ id: `${codec}-${number}`, url: `${url}/doc/${number % 7}` }),
    headers,
  }));
  messages.push({ key: codec, value: null, headers });
  await producer.send({ topic, acks: -1, compression: codecs[codec], messages });
  await producer.disconnect();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
