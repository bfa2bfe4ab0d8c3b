import java.io.BufferedReader;
import java.io.File;
import java.io.FileInputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.concurrent.CompletableFuture;

/** What the clients in Java share. */
interface Client {
  /** Returns the result of a request, whose words are the argument. */
  String run(String[] request) throws Exception;

  /** Reads requests and prints results until the input ends. */
  static void serve(Client client) throws Exception {
    BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
    for (String line; (line = lines.readLine()) != null; ) {
      String result;
      try {
        result = "ok " + client.run(line.split(" "));
      } catch (Exception e) {
        result = "error " + e.getClass().getSimpleName() + ": " + e.getMessage();
      }
      System.out.println(result.replaceAll("\\R", " | "));
    }
    System.exit(0);
  }

  interface Action { void run() throws Exception; }

  /**
   * Sends a file and returns the number and the hash of the bytes that it receives until the
   * end. Halfway through the file, it runs an action, which may be null.
   */
  static String pipe(InputStream in, OutputStream out, Action endOutput, String path, Action halfway) throws Exception {
    long half = new File(path).length() / 2;
    CompletableFuture<Void> sender = CompletableFuture.runAsync(() -> {
      try (InputStream file = new FileInputStream(path)) {
        byte[] block = new byte[1 << 16];
        boolean done = halfway == null;
        long sent = 0;
        for (int n; (n = file.read(block)) > 0; ) {
          out.write(block, 0, n);
          out.flush();
          sent += n;
          if (!done && sent >= half) {
            done = true;
            halfway.run();
          }
        }
        endOutput.run();
      } catch (Exception e) {
        throw new RuntimeException(e);
      }
    });
    MessageDigest received = MessageDigest.getInstance("SHA-256");
    long count = 0;
    byte[] block = new byte[1 << 16];
    for (int n; (n = in.read(block)) > 0; count += n) received.update(block, 0, n);
    sender.get();
    return count + " " + HexFormat.of().formatHex(received.digest());
  }
}
