//! Names for things that are only ever compared and used as an index.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// One accepted connection of one shard. Never reused within the life of the process.
    ConnId(u64)
}
id! {
    /// One shard: a thread that owns its connections and its `Broker`.
    ShardId(u16)
}
id! {
    /// Where a message can go, as an index into the sinks of one compiled route table.
    SinkId(u32)
}
id! {
    /// A route, as an index into the routes of one compiled route table.
    RouteId(u32)
}
id! {
    /// One lane of the commit log, as the store numbers it. Stable across restarts, never reused.
    LaneId(u32)
}
