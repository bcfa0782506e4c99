/// Where an end of a connection is, which its `state` node says (`enum xenbus_state`, xen/io/xenbus.h).
enum XenbusState: UInt64 {
    case unknown = 0
    case initialising = 1
    /// The backend has said what it can do, and waits for the frontend.
    case initWait = 2
    /// The frontend has said where its rings are.
    case initialised = 3
    case connected = 4
    case closing = 5
    case closed = 6
}
