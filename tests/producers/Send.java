import java.nio.charset.StandardCharsets;
import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/** Requests by Kafka's own client, and one tombstone, whose key is the codec: SERVERS TOPIC CODEC COUNT URL. */
public final class Send {
    public static void main(String[] args) {
        Properties config = new Properties();
        config.put("bootstrap.servers", args[0]);
        config.put("compression.type", args[2]);
        config.put("linger.ms", "200");
        StringSerializer text = new StringSerializer();
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(config, text, text)) {
            for (int number = 0; number < Integer.parseInt(args[3]); number++) {
                String value = "{\"id\": \"" + args[2] + "-" + number + "\", \"url\": \"" + args[4] + "/doc/" + number % 7 + "\"}";
                send(producer, args[1], Integer.toString(number), value);
            }
            send(producer, args[1], args[2], null);
        }
    }

    private static void send(KafkaProducer<String, String> producer, String topic, String key, String value) {
        ProducerRecord<String, String> record = new ProducerRecord<>(topic, key, value);
        record.headers().add("own", "\u00fc".getBytes(StandardCharsets.UTF_8)).add("none", null);
        producer.send(record, (where, exc) -> {
            if (exc != null) {
                exc.printStackTrace();
                Runtime.getRuntime().halt(1);
            }
        });
    }
}
