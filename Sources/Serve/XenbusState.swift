/// Where an end of a connection is (`enum xenbus_state`, xen/io/xenbus.h); what its `state` node says.
enum XenbusState: UInt64 {
    case unknown = 0
    case initialising = 1
    /// The backend has said what it can do, and waits for the frontend.
    case initWait = 2
    /// The frontend has said where its ring is.
    case initialised = 3
    case connected = 4
    case closing = 5
    case closed = 6
}
