// Requests by a Go client: CLIENT SERVERS TOPIC CODEC COUNT URL, where CLIENT is franz-go, kafka-go or Sarama.
// Behind them comes one tombstone, whose key is the codec.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The header that each record has; another, `none`, has no value.
var own = []byte("ü")

type record struct{ key, value []byte }

func main() {
	client, servers, topic, codec, url := os.Args[1], strings.Split(os.Args[2], ","), os.Args[3], os.Args[4], os.Args[6]
	count, err := strconv.Atoi(os.Args[5])
	if err != nil {
		log.Fatal(err)
	}
	records := make([]record, count, count+1)
	for number := range records {
		value := fmt.Sprintf(`{"id": "%s-%d", "url": "%s/doc/%d"}`, codec, number, url, number%7)
		records[number] = record{[]byte(strconv.Itoa(number)), []byte(value)}
	}
	records = append(records, record{[]byte(codec), nil})
	send := map[string]func([]string, string, string, []record) error{
		"franz-go": byFranz, "kafka-go": byKafkaGo, "Sarama": bySarama}[client]
	if err := send(servers, topic, codec, records); err != nil {
		log.Fatal(err)
	}
}

func byFranz(servers []string, topic, codec string, records []record) error {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	client, err := kgo.NewClient(kgo.SeedBrokers(servers...), kgo.ProducerBatchCompression(codecs[codec]))
	if err != nil {
		return err
	}
	defer client.Close()
	var sent []*kgo.Record
	for _, each := range records {
		headers := []kgo.RecordHeader{{Key: "own", Value: own}, {Key: "none"}}
		sent = append(sent, &kgo.Record{Topic: topic, Key: each.key, Value: each.value, Headers: headers})
	}
	return client.ProduceSync(context.Background(), sent...).FirstErr()
}

func byKafkaGo(servers []string, topic, codec string, records []record) error {
	codecs := map[string]kafka.Compression{"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}
	writer := &kafka.Writer{Addr: kafka.TCP(servers...), Topic: topic, RequiredAcks: kafka.RequireAll,
		Balancer: &kafka.Hash{}, Compression: codecs[codec]}
	defer writer.Close()
	var sent []kafka.Message
	for _, each := range records {
		headers := []kafka.Header{{Key: "own", Value: own}, {Key: "none"}}
		sent = append(sent, kafka.Message{Key: each.key, Value: each.value, Headers: headers})
	}
	return writer.WriteMessages(context.Background(), sent...)
}

func bySarama(servers []string, topic, codec string, records []record) error {
	config := sarama.NewConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	if err := config.Producer.Compression.UnmarshalText([]byte(codec)); err != nil {
		return err
	}
	producer, err := sarama.NewSyncProducer(servers, config)
	if err != nil {
		return err
	}
	defer producer.Close()
	var sent []*sarama.ProducerMessage
	for _, each := range records {
		message := &sarama.ProducerMessage{Topic: topic, Key: sarama.ByteEncoder(each.key),
			Headers: []sarama.RecordHeader{{Key: []byte("own"), Value: own}, {Key: []byte("none")}}}
		if each.value != nil {
			message.Value = sarama.ByteEncoder(each.value)
		}
		sent = append(sent, message)
	}
	return producer.SendMessages(sent)
}
