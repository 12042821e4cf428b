// Requests by a Go client: CLIENT SERVERS TOPIC CODEC COUNT URL, where CLIENT is franz-go or kafka-go.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	client, servers, topic, codec, url := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[6]
	count, err := strconv.Atoi(os.Args[5])
	if err != nil {
		log.Fatal(err)
	}
	send := map[string]func(string, string, string, int, string) error{"franz-go": byFranz, "kafka-go": byKafkaGo}[client]
	if err := send(servers, topic, codec, count, url); err != nil {
		log.Fatal(err)
	}
}

func request(codec, url string, number int) (key, value []byte) {
	return []byte(strconv.Itoa(number)),
		[]byte(fmt.Sprintf(`{"id": "%s-%d", "url": "%s/doc/%d"}`, codec, number, url, number%7))
}

func byFranz(servers, topic, codec string, count int, url string) error {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(servers, ",")...), kgo.ProducerBatchCompression(codecs[codec]))
	if err != nil {
		return err
	}
	defer client.Close()
	records := make([]*kgo.Record, count)
	for number := range records {
		key, value := request(codec, url, number)
		records[number] = &kgo.Record{Topic: topic, Key: key, Value: value,
			Headers: []kgo.RecordHeader{{Key: "own", Value: []byte("1")}}}
	}
	return client.ProduceSync(context.Background(), records...).FirstErr()
}

func byKafkaGo(servers, topic, codec string, count int, url string) error {
	codecs := map[string]kafka.Compression{"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}
	writer := &kafka.Writer{Addr: kafka.TCP(strings.Split(servers, ",")...), Topic: topic, RequiredAcks: kafka.RequireAll,
		Balancer: &kafka.Hash{}, Compression: codecs[codec]}
	defer writer.Close()
	messages := make([]kafka.Message, count)
	for number := range messages {
		key, value := request(codec, url, number)
		messages[number] = kafka.Message{Key: key, Value: value, Headers: []kafka.Header{{Key: "own", Value: []byte("1")}}}
	}
	return writer.WriteMessages(context.Background(), messages...)
}
