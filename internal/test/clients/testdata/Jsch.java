import com.jcraft.jsch.ChannelDirectTCPIP;
import com.jcraft.jsch.ChannelExec;
import com.jcraft.jsch.JSch;
import com.jcraft.jsch.JSchException;
import com.jcraft.jsch.Logger;
import com.jcraft.jsch.Session;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.Socket;
import java.util.concurrent.Semaphore;

/** A client made with JSch. See doc.go for its input and output. */
class Jsch {
  static final int WAIT = 300_000;

  /** A permit for each key exchange that JSch has logged. */
  static final Semaphore exchanges = new Semaphore(0);

  static Session connect(String host, int port, String key, String known, String alias) throws Exception {
    JSch jsch = new JSch();
    jsch.setKnownHosts(known);
    jsch.addIdentity(key);
    jsch.setInstanceLogger(new Logger() {
      public boolean isEnabled(int level) { return true; }
      public void log(int level, String message) {
        if (message.equals("SSH_MSG_NEWKEYS sent")) exchanges.release();
      }
    });
    Session session = jsch.getSession("bastion", host, port);
    session.setConfig("StrictHostKeyChecking", "yes");
    session.setConfig("PreferredAuthentications", "publickey");
    if (alias != null) session.setHostKeyAlias(alias);
    session.connect(WAIT);
    return session;
  }

  static String status(Session session) throws Exception {
    ChannelExec channel = (ChannelExec) session.openChannel("exec");
    channel.setCommand("status");
    InputStream output = channel.getInputStream();
    channel.connect(WAIT);
    return new String(output.readAllBytes(), "UTF-8");
  }

  static String run(String[] a) throws Exception {
    Session session = connect(a[1], Integer.parseInt(a[2]), a[3], a[4], null);
    try {
      if (a[0].equals("status")) return status(session);
      String host = a[5];
      int port = Integer.parseInt(a[6]);
      if (a[0].equals("jump")) {
        int local = session.setPortForwardingL("127.0.0.1", 0, host, port);
        Session inner = connect("127.0.0.1", local, a[3], a[4], "[" + host + "]:" + port);
        try {
          return status(inner);
        } finally {
          inner.disconnect();
        }
      }
      if (a[0].equals("forward")) {
        try (Socket s = new Socket("127.0.0.1", session.setPortForwardingL("127.0.0.1", 0, host, port))) {
          return Client.pipe(s.getInputStream(), s.getOutputStream(), s::shutdownOutput, a[7], null);
        }
      }
      ChannelDirectTCPIP channel = (ChannelDirectTCPIP) session.openChannel("direct-tcpip");
      channel.setHost(host);
      channel.setPort(port);
      InputStream in = channel.getInputStream();
      OutputStream out = channel.getOutputStream();
      try {
        channel.connect(WAIT);
      } catch (JSchException e) {
        // JSch keeps the reason of RFC 4254, section 5.1, as the exit status.
        throw new JSchException(e.getMessage() + " Reason: " + channel.getExitStatus());
      }
      exchanges.drainPermits();
      boolean rekey = a[0].equals("rekey");
      Client.Action halfway = () -> {
        session.rekey();
        exchanges.acquire();
      };
      return Client.pipe(in, out, out::close, a[7], rekey ? halfway : null) + (rekey ? " rekeyed" : "");
    } finally {
      session.disconnect();
    }
  }

  public static void main(String[] args) throws Exception {
    Client.serve(Jsch::run);
  }
}
